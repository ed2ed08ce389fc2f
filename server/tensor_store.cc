#include "server/tensor_store.h"

#include <algorithm>
#include <utility>

#include "server/errors.h"
#include "server/unit_plan.h"

namespace sage::server {

TensorStore::TensorStore(const TensorStoreOptions& options, Tenants& tenants, Admission& admission,
                         std::vector<Device*> devices)
    : options_(options),
      tenants_(tenants),
      admission_(admission),
      devices_(std::move(devices)),
      thread_([this] { EndLeases(); }) {}

TensorStore::~TensorStore() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

absl::StatusOr<std::shared_ptr<ResidentTensor>> TensorStore::Reserve(const std::string& tenant,
                                                                     const PutSpec& spec) {
  ResidentTensor::Holdings holdings;
  Placements::Group group =
      placements_.Join(tenant, spec.tensor.placement_group, [this] { return &Emptiest(devices_); });
  Device& device = **group;
  holdings.placement = std::move(group);

  // What could never fit is refused before anything else is computed from its size.
  Account& quota_bytes = tenants_.Of(tenant).tensor_bytes();
  const absl::Status fits = Take(quota_bytes, spec.tensor.bytes(), "tenant.tensor_bytes").status();
  if (absl::IsFailedPrecondition(fits)) return fits;

  const std::int64_t kv_heads =
      spec.tensor.role == TensorRole::kK
          ? KvHeadsPerUnit(spec.tensor.num_heads, spec.tensor.head_bytes(), options_.unit_bytes)
          : 1;
  // A mask is kept at the host. A device with memory of its own has a copy, and builds lists from
  // it in each launch; for others they are kept.
  const bool discrete = !device.backend().info().unified_memory;
  std::uint64_t device_bytes =
      SlabPool::RoundUp(spec.tensor.bytes()) + (discrete ? SlabPool::RoundUp(spec.mask_bytes) : 0);
  if (spec.tensor.role == TensorRole::kK) {
    device_bytes += KeptKvBytes(spec.tensor, device.backend(), kv_heads);
  }
  absl::StatusOr<Account::Reservation> count =
      Take(tenants_.Of(tenant).tensors(), 1, "tenant.tensors");
  if (!count.ok()) return count.status();
  holdings.count = *std::move(count);
  absl::StatusOr<Account::Reservation> quota =
      Take(quota_bytes, device_bytes + SlabPool::RoundUp(spec.mask_bytes), "tenant.tensor_bytes");
  if (!quota.ok()) return quota.status();
  holdings.quota = *std::move(quota);
  absl::StatusOr<Account::Reservation> host =
      Take(admission_.host(), spec.mask_bytes, "server.host_bytes");
  if (!host.ok()) return host.status();
  holdings.host = *std::move(host);
  absl::StatusOr<Account::Reservation> on_device =
      Take(device.memory(), device_bytes, "server.device_bytes");
  if (!on_device.ok()) return on_device.status();
  holdings.device = *std::move(on_device);

  if (spec.make_mask) {
    absl::StatusOr<BlockMask> mask = spec.make_mask();
    if (!mask.ok()) return mask.status();
    holdings.mask = std::make_shared<SharedMask>();
    holdings.mask->mask = *std::move(mask);
    if (!discrete) KeepLists(quota_bytes, spec.mask_bytes, holdings);
  }
  absl::StatusOr<Slab> slab = device.pool().Acquire(spec.tensor.bytes());
  if (!slab.ok()) return slab.status();
  holdings.slab = *std::move(slab);
  return std::make_shared<ResidentTensor>(spec.tensor, device, kv_heads, std::move(holdings));
}

void TensorStore::KeepLists(Account& quota_bytes, std::uint64_t mask_bytes,
                            ResidentTensor::Holdings& holdings) {
  const std::uint64_t bytes = BlockLists::Bytes(holdings.mask->mask);
  std::optional<Account::Reservation> host = admission_.host().Reserve(bytes);
  std::optional<Account::Reservation> quota =
      quota_bytes.Reserve(SlabPool::RoundUp(mask_bytes + bytes) - SlabPool::RoundUp(mask_bytes));
  if (!host.has_value() || !quota.has_value()) return;
  holdings.lists = *std::move(host);
  holdings.lists_quota = *std::move(quota);
  holdings.mask->lists.emplace(holdings.mask->mask);
}

absl::StatusOr<TensorStore::Handle> TensorStore::Publish(const std::string& tenant,
                                                         const PutSpec& spec,
                                                         std::shared_ptr<ResidentTensor> tensor) {
  const Clock::time_point now = Clock::now();
  absl::StatusOr<TensorTable::Entry> entry = table_.Insert(
      tenant, spec.idempotency_key, std::move(tensor), now + Granted(spec.lease), now);
  if (!entry.ok()) return entry.status();
  {
    const std::lock_guard lock(mutex_);
    leases_changed_ = true;
  }
  wake_.notify_one();
  return ToHandle(*std::move(entry));
}

TensorStore::Handle TensorStore::ToHandle(TensorTable::Entry entry) const {
  return {std::move(entry.id), std::move(entry.tensor),
          std::chrono::ceil<std::chrono::milliseconds>(entry.lease_end - Clock::now())};
}

std::optional<TensorStore::Handle> TensorStore::Find(const std::string& tenant,
                                                     const std::string& id) const {
  std::optional<TensorTable::Entry> entry = table_.Find(tenant, id, Clock::now());
  if (!entry.has_value()) return std::nullopt;
  return ToHandle(*std::move(entry));
}

absl::StatusOr<std::optional<TensorStore::Handle>> TensorStore::FindByKey(
    const std::string& tenant, const PutSpec& spec) const {
  std::optional<TensorTable::Entry> entry =
      table_.FindByKey(tenant, spec.idempotency_key, Clock::now());
  if (!entry.has_value()) return std::nullopt;
  if (entry->tensor->spec() != spec.tensor) return TensorTable::KeyOfAnother();
  const absl::StatusOr<Account::Reservation> host =
      Take(admission_.host(), spec.mask_bytes, "server.host_bytes");
  if (!host.ok()) return host.status();
  BlockMask mask;
  if (spec.make_mask) {
    absl::StatusOr<BlockMask> made = spec.make_mask();
    if (!made.ok()) return made.status();
    mask = *std::move(made);
  }
  if (!entry->tensor->Is(spec.tensor, mask)) return TensorTable::KeyOfAnother();
  return ToHandle(*std::move(entry));
}

std::chrono::milliseconds TensorStore::Granted(
    std::optional<std::chrono::milliseconds> wish) const {
  return std::min(wish.value_or(options_.default_lease), options_.max_lease);
}

bool TensorStore::Renew(const std::string& tenant, const std::string& id,
                        std::chrono::milliseconds granted) {
  const Clock::time_point now = Clock::now();
  const bool renewed = table_.Renew(tenant, id, now + granted, now);
  {
    const std::lock_guard lock(mutex_);
    leases_changed_ = true;  // it may end earlier than before
  }
  wake_.notify_one();
  return renewed;
}

std::uint64_t TensorStore::Release(const std::string& tenant, const std::string& id) {
  return table_.Release(tenant, id);
}

std::uint64_t TensorStore::leases_expired() const {
  const std::lock_guard lock(mutex_);
  return leases_expired_;
}

void TensorStore::EndLeases() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    leases_changed_ = false;
    lock.unlock();
    const std::size_t expired = table_.Expire(Clock::now());
    const std::optional<Clock::time_point> next = table_.earliest_lease_end();
    lock.lock();
    leases_expired_ += expired;
    const auto changed = [this] { return leases_changed_ || stopping_; };
    if (next.has_value()) {
      wake_.wait_until(lock, *next, changed);
    } else {
      wake_.wait(lock, changed);
    }
  }
}

}  // namespace sage::server
