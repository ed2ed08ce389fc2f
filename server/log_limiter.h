// Keeps what others can cause as often as they like from filling the log.
#ifndef SAGE_SERVER_LOG_LIMITER_H_
#define SAGE_SERVER_LOG_LIMITER_H_

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>

namespace sage::server {

// Thread-safe.
class LogLimiter {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr int kLinesPerSecond = 5;

  // Whether a line may be written now, and then how many were left out since the last one.
  std::optional<std::uint64_t> Take(Clock::time_point now = Clock::now()) {
    const std::lock_guard lock(mutex_);
    if (now >= second_ends_) {
      second_ends_ = now + std::chrono::seconds(1);
      lines_ = 0;
    }
    if (lines_ == kLinesPerSecond) {
      ++left_out_;
      return std::nullopt;
    }
    ++lines_;
    return std::exchange(left_out_, 0);
  }

 private:
  std::mutex mutex_;
  // Guarded by mutex_.
  Clock::time_point second_ends_;
  int lines_ = 0;  // in this second
  std::uint64_t left_out_ = 0;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_LOG_LIMITER_H_
