// Resident tensors: room for them, their handles, and the end of their leases.
#ifndef SAGE_SERVER_TENSOR_STORE_H_
#define SAGE_SERVER_TENSOR_STORE_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "server/admission.h"
#include "server/device.h"
#include "server/placements.h"
#include "server/resident_tensor.h"
#include "server/tenants.h"
#include "server/tensor_table.h"

namespace sage::server {

struct TensorStoreOptions {
  std::uint64_t unit_bytes = 0;  // of a request's units, see PlanLimits
  std::chrono::milliseconds default_lease{600000};
  std::chrono::milliseconds max_lease{3600000};
};

// A checked request to keep a tensor.
struct PutSpec {
  TensorSpec tensor;
  // Masks: bytes of the packed bits, and what builds them, called once these bytes are reserved
  // for the host and the tenant.
  std::uint64_t mask_bytes = 0;
  std::function<absl::StatusOr<BlockMask>()> make_mask;
  std::optional<std::chrono::milliseconds> lease;  // nothing: the default
  std::string idempotency_key;                     // empty: none
};

// Thread-safe. Tensors may outlive the store, but not the devices, the tenants or the admission.
class TensorStore {
 public:
  TensorStore(const TensorStoreOptions& options, Tenants& tenants, Admission& admission,
              std::vector<Device*> devices);
  ~TensorStore();

  // A tensor that has its memory, elements undefined and masks built, and no handle yet.
  // FAILED_PRECONDITION and RESOURCE_EXHAUSTED, naming the quota or the memory, and what make_mask
  // fails with.
  absl::StatusOr<std::shared_ptr<ResidentTensor>> Reserve(const std::string& tenant,
                                                          const PutSpec& spec);

  struct Handle {
    std::string id;
    std::shared_ptr<ResidentTensor> tensor;
    std::chrono::milliseconds lease;  // that is left
  };
  // Gives a tensor its handle; see TensorTable::Insert().
  absl::StatusOr<Handle> Publish(const std::string& tenant, const PutSpec& spec,
                                 std::shared_ptr<ResidentTensor> tensor);

  // Nothing where the tenant has no such handle any more.
  std::optional<Handle> Find(const std::string& tenant, const std::string& id) const;
  // The handle of a tensor put with the same key before, if there is one. INVALID_ARGUMENT where
  // that has another spec or mask.
  absl::StatusOr<std::optional<Handle>> FindByKey(const std::string& tenant,
                                                  const PutSpec& spec) const;

  // What is granted where `wish` is asked for.
  std::chrono::milliseconds Granted(std::optional<std::chrono::milliseconds> wish) const;
  bool Renew(const std::string& tenant, const std::string& id, std::chrono::milliseconds granted);
  // Bytes given back, 0 where there is no such handle.
  std::uint64_t Release(const std::string& tenant, const std::string& id);

  std::size_t size() const { return table_.size(); }
  std::uint64_t leases_expired() const;
  // Bytes that count for some tenant.
  std::uint64_t stored_bytes() const { return tenants_.tensor_bytes(); }

 private:
  using Clock = std::chrono::steady_clock;

  // Adds its lists to the mask in `holdings`, of `mask_bytes`, where the tenant's quota and the
  // host have room for them: kernels are faster with lists, and right without.
  void KeepLists(Account& quota_bytes, std::uint64_t mask_bytes,
                 ResidentTensor::Holdings& holdings);
  Handle ToHandle(TensorTable::Entry entry) const;
  void EndLeases();

  const TensorStoreOptions options_;
  Tenants& tenants_;
  Admission& admission_;
  const std::vector<Device*> devices_;
  Placements placements_;
  TensorTable table_;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  std::uint64_t leases_expired_ = 0;
  bool leases_changed_ = false;
  bool stopping_ = false;
  std::thread thread_;  // ends leases
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TENSOR_STORE_H_
