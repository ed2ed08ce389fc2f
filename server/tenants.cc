#include "server/tenants.h"

#include <chrono>
#include <optional>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace sage::server {
namespace {

// A call takes tens of milliseconds to seconds.
constexpr std::chrono::milliseconds kQuotaRetryDelay{100};

}  // namespace

absl::StatusOr<Account::Reservation> Tenant::OpenStream() {
  std::optional<Account::Reservation> place = streams_.Reserve(1);
  if (place.has_value()) return *std::move(place);
  return WithRetryDelay(
      LimitReached("tenant.streams", absl::StrCat("all ", streams_.limit(), " are in use")),
      kQuotaRetryDelay);
}

Tenant& Tenants::Of(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (const auto found = tenants_.find(name); found != tenants_.end()) return found->second;
  const auto own = own_limits_.find(name);
  return tenants_.try_emplace(name, name, own == own_limits_.end() ? limits_ : own->second)
      .first->second;
}

std::uint64_t Tenants::tensor_bytes() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t sum = 0;
  for (const auto& [name, tenant] : tenants_) sum += tenant.tensor_bytes().reserved();
  return sum;
}

}  // namespace sage::server
