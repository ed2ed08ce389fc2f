// A tensor or mask that stays on a device from one request to the next.
#ifndef SAGE_SERVER_RESIDENT_TENSOR_H_
#define SAGE_SERVER_RESIDENT_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "server/account.h"
#include "server/device.h"
#include "server/engine.h"
#include "server/slab_pool.h"
#include "server/tensor_spec.h"

namespace sage::server {

// Shared by the table that names it and by the requests that use it; its memory goes back when the
// last of them lets go. Elements of all roles but output do not change once it is published.
// Thread-safe.
class ResidentTensor {
 public:
  // What a tensor takes up, for as long as it lives.
  struct Holdings {
    Account::Reservation count;        // of the tenant: one tensor
    Account::Reservation quota;        // of the tenant: the bytes that the tensor counts for, and
    Account::Reservation lists_quota;  // those of its lists
    Account::Reservation host;         // masks: their bits
    Account::Reservation lists;        // masks: their lists, where these are kept
    Account::Reservation device;       // elements, prepared keys, the device's copy of a mask
    std::shared_ptr<const void> placement;
    std::shared_ptr<SharedMask> mask;  // masks only
    Slab slab;                         // device memory of the elements; empty for a mask
  };

  // `kv_heads_per_unit`: heads that are kept prepared together, see KvHeadsPerUnit(). `device`
  // outlives the tensor.
  ResidentTensor(TensorSpec spec, Device& device, std::int64_t kv_heads_per_unit, Holdings holdings)
      : spec_(std::move(spec)),
        device_(device),
        kv_heads_per_unit_(kv_heads_per_unit),
        holdings_(std::move(holdings)) {}

  const TensorSpec& spec() const { return spec_; }
  Device& device() const { return device_; }
  std::byte* data() const { return holdings_.slab.data(); }
  const std::shared_ptr<SharedMask>& mask() const { return holdings_.mask; }
  std::uint64_t stored_bytes() const {
    return holdings_.quota.amount() + holdings_.lists_quota.amount();
  }
  // Whether it was made from this spec and, if it is a mask, has these bits.
  bool Is(const TensorSpec& spec, const BlockMask& mask) const;

  // The piece of a k that is kept prepared for `task`, heads `head_begin` on of batch entry
  // `batch`, k and v pointing into `this` and `v`: the same object each time. Null where it is not
  // kept: the precision is not among the spec's, only some of the keys are used, the heads are cut
  // another way, or k is kept for use with another v that lives. May be used while both tensors
  // live, on their device.
  std::shared_ptr<KvGroup> KeptKv(const std::shared_ptr<const ResidentTensor>& v,
                                  const KvTask& task, std::int64_t batch, std::int64_t head_begin);

  // The right to read an output, or to write a region of it; gives it back when destroyed. Many may
  // read at once, or some write regions that do not overlap. Move-only.
  class Access {
   public:
    Access(Access&&) = default;
    ~Access();

   private:
    friend class ResidentTensor;
    Access(std::shared_ptr<ResidentTensor> tensor, std::optional<TensorRegion> written)
        : tensor_(std::move(tensor)), written_(written) {}
    std::shared_ptr<ResidentTensor> tensor_;
    std::optional<TensorRegion> written_;  // nothing: reads
  };
  // Nothing where others have the right.
  static std::optional<Access> TryRead(std::shared_ptr<ResidentTensor> tensor);
  static std::optional<Access> TryWrite(std::shared_ptr<ResidentTensor> tensor,
                                        const TensorRegion& region);

  // How many times the right to write was given back.
  std::uint64_t generation() const;

 private:
  using KvKey = std::tuple<Precision, std::int64_t, std::int64_t>;  // precision, batch, first head

  const TensorSpec spec_;
  Device& device_;
  const std::int64_t kv_heads_per_unit_;
  const Holdings holdings_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::weak_ptr<const ResidentTensor> kept_v_;  // that kept_ was prepared with
  std::map<KvKey, std::shared_ptr<KvGroup>> kept_;
  int readers_ = 0;
  std::vector<TensorRegion> written_;  // that someone has the right to write
  std::uint64_t generation_ = 0;
};

// The resident tensors of one request, null where the tensor travels. All on one device. The
// request is about a part of them: its first batch entry and heads are those at *_begin.
struct ResidentOperands {
  std::shared_ptr<ResidentTensor> q;
  std::shared_ptr<ResidentTensor> k;
  std::shared_ptr<ResidentTensor> v;
  std::shared_ptr<ResidentTensor> mask;
  std::shared_ptr<ResidentTensor> output;
  std::int64_t batch_begin = 0;
  std::int64_t q_head_begin = 0;  // of q, the output and the mask
  std::int64_t kv_head_begin = 0;

  // The device of those that are there; null where none is.
  Device* device() const;
};

// Bytes of device memory, in slabs, that a k takes up when it is prepared for the precisions of its
// spec.
std::uint64_t KeptKvBytes(const TensorSpec& k, const Backend& backend,
                          std::int64_t kv_heads_per_unit);

}  // namespace sage::server

#endif  // SAGE_SERVER_RESIDENT_TENSOR_H_
