// Accounts: how much of something, bytes or requests, is promised to admitted requests, before any
// of it is used.
#ifndef SAGE_SERVER_ACCOUNT_H_
#define SAGE_SERVER_ACCOUNT_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>

namespace sage::server {

// A limit and what is reserved of it. Thread-safe; must outlive its reservations.
class Account {
 public:
  // Gives its amount back when destroyed. Move-only.
  class Reservation {
   public:
    Reservation() = default;
    Reservation(Reservation&& other) noexcept { *this = std::move(other); }
    Reservation& operator=(Reservation&& other) noexcept {
      if (this != &other) {
        Release();
        account_ = std::exchange(other.account_, nullptr);
        amount_ = std::exchange(other.amount_, 0);
      }
      return *this;
    }
    ~Reservation() { Release(); }

    std::uint64_t amount() const { return amount_; }
    // Gives back what is beyond `amount`, which is not more than there is.
    void ShrinkTo(std::uint64_t amount);
    void Release() { ShrinkTo(0); }

   private:
    friend class Account;
    Reservation(Account* account, std::uint64_t amount) : account_(account), amount_(amount) {}

    Account* account_ = nullptr;
    std::uint64_t amount_ = 0;
  };

  explicit Account(std::uint64_t limit) : limit_(limit) {}

  // Nothing where `amount` does not fit beside what is reserved already.
  std::optional<Reservation> Reserve(std::uint64_t amount);

  std::uint64_t limit() const { return limit_; }
  std::uint64_t reserved() const;

  // Waits until nothing is reserved, at most until `deadline`; whether that came about.
  bool AwaitEmpty(std::chrono::steady_clock::time_point deadline) const;

 private:
  const std::uint64_t limit_;
  mutable std::mutex mutex_;
  mutable std::condition_variable emptied_;
  std::uint64_t reserved_ = 0;  // guarded by mutex_; <= limit_
};

}  // namespace sage::server

#endif  // SAGE_SERVER_ACCOUNT_H_
