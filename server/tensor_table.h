// The handles of resident tensors: who they belong to and until when.
#ifndef SAGE_SERVER_TENSOR_TABLE_H_
#define SAGE_SERVER_TENSOR_TABLE_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/leases.h"
#include "server/resident_tensor.h"

namespace sage::server {

// A handle is 128 random bits that work for one tenant until its lease ends or it is released;
// whoever then still uses the tensor keeps it alive. Times are given, so that there is no clock in
// here. Thread-safe. Tensors are destroyed outside the lock, since that may take a while.
class TensorTable {
 public:
  using TimePoint = Leases::TimePoint;

  struct Entry {
    std::string id;  // 16 bytes
    std::shared_ptr<ResidentTensor> tensor;
    TimePoint lease_end;
  };

  // INVALID_ARGUMENT: an idempotency key was used for something else before.
  static absl::Status KeyOfAnother();

  // Gives `tensor` a handle. Where `tenant` has used `key`, unless it is empty, for a tensor that
  // is still there, that one is the answer if it has the same spec and mask; else KeyOfAnother().
  absl::StatusOr<Entry> Insert(const std::string& tenant, const std::string& key,
                               std::shared_ptr<ResidentTensor> tensor, TimePoint lease_end,
                               TimePoint now);

  // Nothing where the handle is not known, has expired or is another tenant's.
  std::optional<Entry> Find(const std::string& tenant, const std::string& id, TimePoint now) const;
  // Likewise, by the key that it was put with.
  std::optional<Entry> FindByKey(const std::string& tenant, const std::string& key,
                                 TimePoint now) const;

  // Whether there was something to renew.
  bool Renew(const std::string& tenant, const std::string& id, TimePoint lease_end, TimePoint now);
  // Bytes that the handle counted for, 0 where there is none.
  std::uint64_t Release(const std::string& tenant, const std::string& id);
  // Ends the leases that are over at `now`; how many.
  std::size_t Expire(TimePoint now);

  std::size_t size() const;
  std::optional<TimePoint> earliest_lease_end() const;

 private:
  struct Owned {
    std::string tenant;
    std::string key;
    std::shared_ptr<ResidentTensor> tensor;
  };

  // All with mutex_ held.
  const Owned* FindLocked(const std::string& tenant, const std::string& id, TimePoint now) const;
  std::shared_ptr<ResidentTensor> Remove(const std::string& id);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::string, Owned> tensors_;                               // by id
  std::map<std::pair<std::string, std::string>, std::string> by_key_;  // tenant, key -> id
  Leases leases_;                                                      // of every id
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TENSOR_TABLE_H_
