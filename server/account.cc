#include "server/account.h"

namespace sage::server {

std::optional<Account::Reservation> Account::Reserve(std::uint64_t amount) {
  const std::lock_guard lock(mutex_);
  if (amount > limit_ - reserved_) return std::nullopt;
  reserved_ += amount;
  return Reservation(this, amount);
}

std::uint64_t Account::reserved() const {
  const std::lock_guard lock(mutex_);
  return reserved_;
}

bool Account::AwaitEmpty(std::chrono::steady_clock::time_point deadline) const {
  std::unique_lock lock(mutex_);
  return emptied_.wait_until(lock, deadline, [this] { return reserved_ == 0; });
}

void Account::Reservation::ShrinkTo(std::uint64_t amount) {
  if (account_ == nullptr) return;
  const std::lock_guard lock(account_->mutex_);
  account_->reserved_ -= amount_ - amount;
  amount_ = amount;
  if (account_->reserved_ == 0) account_->emptied_.notify_all();
}

}  // namespace sage::server
