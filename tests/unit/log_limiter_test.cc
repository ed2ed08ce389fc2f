#include "server/log_limiter.h"

#include "gtest/gtest.h"

namespace sage::server {
namespace {

TEST(LogLimiterTest, LeavesOutAllButAFewASecondAndCountsThem) {
  LogLimiter limiter;
  const LogLimiter::Clock::time_point begin = LogLimiter::Clock::now();
  for (int i = 0; i < LogLimiter::kLinesPerSecond; ++i) EXPECT_EQ(limiter.Take(begin), 0u);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(limiter.Take(begin + std::chrono::milliseconds(999)), std::nullopt);
  }
  EXPECT_EQ(limiter.Take(begin + std::chrono::seconds(1)), 100u);
  EXPECT_EQ(limiter.Take(begin + std::chrono::seconds(1)), 0u);
}

}  // namespace
}  // namespace sage::server
