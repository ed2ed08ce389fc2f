#include "server/slab_pool.h"

#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/account.h"
#include "tests/support/faulty_backend.h"

namespace sage::server {
namespace {

class SlabPoolTest : public ::testing::Test {
 protected:
  SlabPoolTest()
      : backend_(testing::MakeFaultyBackend(*CreateCpuBackend({.num_threads = 1}), faults_)) {}

  testing::Faults faults_;
  std::unique_ptr<Backend> backend_;
  SlabPool pool_{*backend_, MemoryKind::kHost, 1 << 20};
};

TEST_F(SlabPoolTest, RoundsUpByAtMostAQuarter) {
  EXPECT_EQ(SlabPool::RoundUp(0), 0u);
  for (std::uint64_t bytes = 1; bytes < (1 << 22); bytes += 997) {
    const std::uint64_t rounded = SlabPool::RoundUp(bytes);
    EXPECT_GE(rounded, bytes);
    if (bytes >= (16 << 10)) {
      EXPECT_LE(rounded, bytes + bytes / 4);
    }
    EXPECT_EQ(SlabPool::RoundUp(rounded), rounded);
  }
}

TEST_F(SlabPoolTest, KeepsSlabsForTheNextRequest) {
  const std::byte* first = nullptr;
  {
    auto slab = pool_.Acquire(100000);
    ASSERT_TRUE(slab.ok());
    first = slab->data();
    EXPECT_EQ(pool_.in_use_bytes(), SlabPool::RoundUp(100000));
  }
  EXPECT_EQ(pool_.in_use_bytes(), 0u);
  EXPECT_EQ(pool_.cached_bytes(), SlabPool::RoundUp(100000));
  auto again = pool_.Acquire(99999);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->data(), first);
}

TEST_F(SlabPoolTest, FreesKeptSlabsBeforeItExceedsItsLimit) {
  std::mt19937_64 random(3);
  std::vector<Slab> held;
  for (int i = 0; i < 2000; ++i) {
    const std::uint64_t bytes = 1 + random() % 200000;
    if (held.size() > 3)
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(random() % held.size()));
    auto slab = pool_.Acquire(bytes);
    ASSERT_TRUE(slab.ok());
    held.push_back(*std::move(slab));
    ASSERT_LE(pool_.in_use_bytes() + pool_.cached_bytes(), std::uint64_t{1} << 20);
  }
}

TEST_F(SlabPoolTest, FreesSlabsThatNobodyWants) {
  const SlabPool::Clock::time_point begin = SlabPool::Clock::now();
  {
    const auto wanted = pool_.Acquire(30000);
    const auto one = pool_.Acquire(100000);
    const auto other = pool_.Acquire(100000);
    ASSERT_TRUE(wanted.ok() && one.ok() && other.ok());
  }
  const std::uint64_t small = SlabPool::RoundUp(30000);
  const std::uint64_t large = SlabPool::RoundUp(100000);
  EXPECT_EQ(pool_.cached_bytes(), small + 2 * large);
  pool_.FreeUnwanted(begin + SlabPool::kPatience - std::chrono::seconds(1));
  EXPECT_EQ(pool_.cached_bytes(), small + 2 * large);
  const auto used = pool_.Acquire(100000);
  pool_.FreeUnwanted(begin + SlabPool::kPatience + std::chrono::minutes(1));
  EXPECT_EQ(pool_.cached_bytes(), 0u);
  EXPECT_EQ(pool_.in_use_bytes(), large);
}

TEST_F(SlabPoolTest, AFailedAllocationLeavesNothingBehind) {
  faults_.allocations = 1;
  const auto slab = pool_.Acquire(1000);
  EXPECT_EQ(slab.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(pool_.in_use_bytes(), 0u);
  EXPECT_TRUE(pool_.Acquire(1000).ok());
}

TEST(Account, NeverPromisesMoreThanItsLimit) {
  Account account(10);
  auto six = account.Reserve(6);
  ASSERT_TRUE(six.has_value());
  EXPECT_FALSE(account.Reserve(5).has_value());
  EXPECT_TRUE(account.Reserve(4).has_value());  // and given back at once
  EXPECT_FALSE(account.Reserve(~std::uint64_t{0}).has_value());
  Account::Reservation moved = *std::move(six);
  six.reset();
  EXPECT_EQ(account.reserved(), 6u);
  moved.Release();
  moved.Release();
  EXPECT_EQ(account.reserved(), 0u);
}

}  // namespace
}  // namespace sage::server
