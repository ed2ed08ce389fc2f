#include "server/tensor_table.h"

#include "proto/wire/random_id.h"
#include "server/errors.h"

namespace sage::server {

absl::Status TensorTable::KeyOfAnother() {
  return InvalidField("idempotency_key", "seen before with another spec");
}

absl::StatusOr<TensorTable::Entry> TensorTable::Insert(const std::string& tenant,
                                                       const std::string& key,
                                                       std::shared_ptr<ResidentTensor> tensor,
                                                       TimePoint lease_end, TimePoint now) {
  const std::lock_guard lock(mutex_);
  if (!key.empty()) {
    if (const auto known = by_key_.find({tenant, key}); known != by_key_.end()) {
      if (const Owned* const owned = FindLocked(tenant, known->second, now); owned != nullptr) {
        const BlockMask none;
        const BlockMask& mask = tensor->mask() == nullptr ? none : tensor->mask()->mask;
        if (!owned->tensor->Is(tensor->spec(), mask)) return KeyOfAnother();
        return Entry{known->second, owned->tensor, leases_.end(known->second)};
      }
    }
  }
  const std::string id = RandomBits();
  if (!key.empty()) by_key_[{tenant, key}] = id;
  tensors_[id] = {tenant, key, tensor};
  leases_.Set(id, lease_end);
  return Entry{id, std::move(tensor), lease_end};
}

const TensorTable::Owned* TensorTable::FindLocked(const std::string& tenant, const std::string& id,
                                                  TimePoint now) const {
  const auto found = tensors_.find(id);
  if (found == tensors_.end() || found->second.tenant != tenant || leases_.end(id) <= now) {
    return nullptr;
  }
  return &found->second;
}

std::optional<TensorTable::Entry> TensorTable::Find(const std::string& tenant,
                                                    const std::string& id, TimePoint now) const {
  const std::lock_guard lock(mutex_);
  const Owned* const owned = FindLocked(tenant, id, now);
  if (owned == nullptr) return std::nullopt;
  return Entry{id, owned->tensor, leases_.end(id)};
}

std::optional<TensorTable::Entry> TensorTable::FindByKey(const std::string& tenant,
                                                         const std::string& key,
                                                         TimePoint now) const {
  const std::lock_guard lock(mutex_);
  const auto known = by_key_.find({tenant, key});
  if (known == by_key_.end()) return std::nullopt;
  const Owned* const owned = FindLocked(tenant, known->second, now);
  if (owned == nullptr) return std::nullopt;
  return Entry{known->second, owned->tensor, leases_.end(known->second)};
}

bool TensorTable::Renew(const std::string& tenant, const std::string& id, TimePoint lease_end,
                        TimePoint now) {
  const std::lock_guard lock(mutex_);
  if (FindLocked(tenant, id, now) == nullptr) return false;
  leases_.Set(id, lease_end);
  return true;
}

std::shared_ptr<ResidentTensor> TensorTable::Remove(const std::string& id) {
  const auto found = tensors_.find(id);
  Owned owned = std::move(found->second);
  tensors_.erase(found);
  leases_.Drop(id);
  // A key whose tensor had expired may have been given to another one since.
  const auto known = by_key_.find({owned.tenant, owned.key});
  if (known != by_key_.end() && known->second == id) by_key_.erase(known);
  return std::move(owned.tensor);
}

std::uint64_t TensorTable::Release(const std::string& tenant, const std::string& id) {
  std::shared_ptr<ResidentTensor> tensor;
  {
    const std::lock_guard lock(mutex_);
    const auto found = tensors_.find(id);
    if (found == tensors_.end() || found->second.tenant != tenant) return 0;
    tensor = Remove(id);
  }
  return tensor->stored_bytes();
}

std::size_t TensorTable::Expire(TimePoint now) {
  std::vector<std::shared_ptr<ResidentTensor>> expired;
  {
    const std::lock_guard lock(mutex_);
    for (const std::string& id : leases_.TakeExpired(now)) expired.push_back(Remove(id));
  }
  return expired.size();
}

std::size_t TensorTable::size() const {
  const std::lock_guard lock(mutex_);
  return tensors_.size();
}

std::optional<TensorTable::TimePoint> TensorTable::earliest_lease_end() const {
  const std::lock_guard lock(mutex_);
  return leases_.earliest();
}

}  // namespace sage::server
