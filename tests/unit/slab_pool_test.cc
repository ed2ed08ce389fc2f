#include "server/slab_pool.h"

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/account.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/forwarding_backend.h"

namespace sage::server {
namespace {

// Has `limit` bytes and not one more; takes its time to free them.
class SmallBackend : public testing::ForwardingBackend {
 public:
  explicit SmallBackend(std::uint64_t limit)
      : ForwardingBackend(*CreateCpuBackend({.num_threads = 1})), limit_(limit) {}

  absl::StatusOr<Memory> Allocate(MemoryKind kind, std::size_t bytes) override {
    if (allocated_.fetch_add(bytes) + bytes > limit_) {
      allocated_ -= bytes;
      return absl::ResourceExhaustedError("no room");
    }
    absl::StatusOr<Memory> memory = ForwardingBackend::Allocate(kind, bytes);
    if (!memory.ok()) return memory;
    auto owner = std::make_shared<Memory>(*std::move(memory));
    return Memory(owner->data(), bytes, [this, owner](std::byte*, std::size_t size) {
      for (int i = 0; i < 20; ++i) std::this_thread::yield();
      owner->Reset();
      allocated_ -= size;
    });
  }

 private:
  const std::uint64_t limit_;
  std::atomic<std::uint64_t> allocated_ = 0;
};

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

// Slabs that were promised are there, whatever is being freed meanwhile.
TEST(SlabPool, AllocatesNothingBeforeThereIsRoom) {
  constexpr std::uint64_t kLimit = 256 << 10;
  constexpr std::uint64_t kThreads = 3;
  SmallBackend backend(kLimit);
  SlabPool pool(backend, MemoryKind::kHost, kLimit);
  std::atomic<bool> ended = false;
  std::thread freeing([&] {
    while (!ended) {
      pool.FreeUnwanted(SlabPool::Clock::now() + 2 * SlabPool::kPatience);
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> acquiring;
  for (std::uint64_t t = 0; t < kThreads; ++t) {
    acquiring.emplace_back([&pool, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 2000; ++i) {
        // A step below the fair share, as sizes are rounded up.
        const auto slab = pool.Acquire(1 + random() % (kLimit / kThreads * 3 / 4));
        ASSERT_TRUE(slab.ok()) << slab.status();
      }
    });
  }
  for (std::thread& thread : acquiring) thread.join();
  ended = true;
  freeing.join();
  pool.FreeUnwanted(SlabPool::Clock::now() + 2 * SlabPool::kPatience);
  EXPECT_EQ(pool.cached_bytes(), 0u);
  EXPECT_EQ(pool.in_use_bytes(), 0u);
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
