#include "server/tensor_store.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/leases.h"
#include "server/tensor_table.h"

namespace sage::server {
namespace {

using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Leases::TimePoint kStart{};

TEST(Leases, EndInOrderOfTime) {
  Leases leases;
  EXPECT_EQ(leases.earliest(), std::nullopt);
  leases.Set("a", kStart + seconds(3));
  leases.Set("b", kStart + seconds(1));
  leases.Set("c", kStart + seconds(2));
  EXPECT_EQ(leases.earliest(), kStart + seconds(1));
  leases.Set("b", kStart + seconds(4));  // renewed
  leases.Drop("a");
  leases.Drop("unknown");
  EXPECT_EQ(leases.earliest(), kStart + seconds(2));
  EXPECT_THAT(leases.TakeExpired(kStart + seconds(1)), IsEmpty());
  EXPECT_THAT(leases.TakeExpired(kStart + seconds(2)), ElementsAre("c"));
  EXPECT_EQ(leases.end("b"), kStart + seconds(4));
  EXPECT_THAT(leases.TakeExpired(kStart + seconds(9)), ElementsAre("b"));
  EXPECT_EQ(leases.earliest(), std::nullopt);
}

class TensorStoreTest : public ::testing::Test {
 protected:
  TensorStoreTest()
      : device_(*Device::Create(*CreateCpuBackend({.num_threads = 1}), 64 << 20, {})),
        other_device_(*Device::Create(*CreateCpuBackend({.num_threads = 1}), 64 << 20, {})) {}

  void TearDown() override {
    for (const auto& device : {device_.get(), other_device_.get()}) {
      EXPECT_EQ(device->pool().in_use_bytes(), 0u);
      EXPECT_EQ(device->memory().reserved(), 0u);
    }
    EXPECT_EQ(admission_.host().reserved(), 0u);
  }

  std::shared_ptr<ResidentTensor> Tensor(std::int64_t seqlen = 1) {
    TensorSpec spec;
    spec.seqlen = seqlen;
    return std::make_shared<ResidentTensor>(spec, *device_, 1, ResidentTensor::Holdings{});
  }

  static PutSpec Output(const std::string& group = {}) {
    PutSpec spec;
    spec.tensor.role = TensorRole::kOutput;
    spec.tensor.seqlen = 4096;  // 64 KiB
    spec.tensor.placement_group = group;
    return spec;
  }

  // Lists every block of 64 heads, 16 tiles and 64 blocks: 8 KiB of bits, 264 KiB of lists. Counts
  // how often it is made.
  PutSpec Mask() {
    PutSpec spec;
    spec.tensor.role = TensorRole::kMask;
    spec.mask_bytes = 8 << 10;
    spec.make_mask = [this] {
      ++masks_made_;
      AttentionProblem problem;
      problem.batch = 1;
      problem.num_heads_q = problem.num_heads_kv = 64;
      problem.seqlen_q = 16 * 128;
      problem.seqlen_k = 64 * 64;
      problem.head_dim = 64;
      return BlockMask::FromPacked(problem, 1, 64, std::vector<std::uint8_t>(8 << 10, 0xFF));
    };
    return spec;
  }

  int masks_made_ = 0;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Device> other_device_;
  Admission admission_{64 << 20, 4};
};

TEST_F(TensorStoreTest, ATableKnowsOwnersAndTheirTime) {
  TensorTable table;
  const auto entry = table.Insert("me", "", Tensor(), kStart + seconds(2), kStart);
  ASSERT_TRUE(entry.ok());
  EXPECT_EQ(entry->id.size(), 16u);
  EXPECT_TRUE(table.Find("me", entry->id, kStart + seconds(1)).has_value());
  EXPECT_FALSE(table.Find("you", entry->id, kStart + seconds(1)).has_value());
  EXPECT_FALSE(table.Find("me", entry->id, kStart + seconds(2)).has_value());
  EXPECT_FALSE(table.Renew("you", entry->id, kStart + seconds(9), kStart));
  EXPECT_FALSE(table.Renew("me", entry->id, kStart + seconds(9), kStart + seconds(2)));
  EXPECT_TRUE(table.Renew("me", entry->id, kStart + seconds(5), kStart + seconds(1)));
  EXPECT_EQ(table.earliest_lease_end(), kStart + seconds(5));
  EXPECT_EQ(table.Expire(kStart + seconds(4)), 0u);
  EXPECT_EQ(table.size(), 1u);
  EXPECT_EQ(table.Expire(kStart + seconds(5)), 1u);
  EXPECT_EQ(table.size(), 0u);
}

TEST_F(TensorStoreTest, ReleaseIsForTheOwner) {
  TensorTable table;
  const auto entry = table.Insert("me", "", Tensor(), kStart + seconds(2), kStart);
  const std::weak_ptr<ResidentTensor> tensor = entry->tensor;
  table.Release("you", entry->id);
  EXPECT_EQ(table.size(), 1u);
  table.Release("me", entry->id);
  EXPECT_EQ(table.size(), 0u);
  EXPECT_FALSE(tensor.expired());  // `entry` uses it
}

TEST_F(TensorStoreTest, AKeyStandsForOneTensorOfOneTenant) {
  TensorTable table;
  const auto first = table.Insert("me", "key", Tensor(), kStart + seconds(2), kStart);
  const auto again = table.Insert("me", "key", Tensor(), kStart + seconds(3), kStart);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->id, first->id);
  EXPECT_EQ(again->tensor, first->tensor);
  const auto yours = table.Insert("you", "key", Tensor(2), kStart + seconds(9), kStart);
  ASSERT_TRUE(yours.ok());
  EXPECT_NE(yours->id, first->id);
  EXPECT_EQ(table.Insert("me", "key", Tensor(2), kStart + seconds(2), kStart).status(),
            TensorTable::KeyOfAnother());
  // Once its tensor is gone, the key is free, and not forgotten with the tensor it named before.
  const auto next = table.Insert("me", "key", Tensor(2), kStart + seconds(9), kStart + seconds(2));
  ASSERT_TRUE(next.ok());
  EXPECT_EQ(table.Expire(kStart + seconds(2)), 1u);
  EXPECT_EQ(table.FindByKey("me", "key", kStart + seconds(3))->id, next->id);
}

TEST_F(TensorStoreTest, TenantsHaveAQuotaEach) {
  Tenants tenants({.tensor_bytes = 128 << 10});
  TensorStore store({.unit_bytes = 1 << 20}, tenants, admission_, {device_.get()});
  std::vector<std::shared_ptr<ResidentTensor>> tensors;
  for (const char* tenant : {"a", "a", "b", "b"}) {
    auto tensor = store.Reserve(tenant, Output());
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    tensors.push_back(*std::move(tensor));
  }
  EXPECT_EQ(store.stored_bytes(), std::uint64_t{256 << 10});
  EXPECT_EQ(store.Reserve("a", Output()).status().code(), absl::StatusCode::kResourceExhausted);
  tensors.erase(tensors.begin());
  EXPECT_TRUE(store.Reserve("a", Output()).ok());
  PutSpec large = Output();
  large.tensor.batch = 4;
  EXPECT_EQ(store.Reserve("a", large).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(TensorStoreTest, TensorsOfATenantAreCounted) {
  Tenants tenants({.tensors = 2}, {{"large", {.tensors = 3}}, {"none", {.tensors = 0}}});
  TensorStore store({.unit_bytes = 1 << 20}, tenants, admission_, {device_.get()});
  std::vector<std::shared_ptr<ResidentTensor>> tensors;
  for (const char* tenant : {"a", "a", "large", "large", "large"}) {
    auto tensor = store.Reserve(tenant, Output());
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    tensors.push_back(*std::move(tensor));
  }
  for (const char* tenant : {"a", "large"}) {
    EXPECT_EQ(store.Reserve(tenant, Output()).status().code(),
              absl::StatusCode::kResourceExhausted);
  }
  EXPECT_EQ(store.Reserve("none", Output()).status().code(), absl::StatusCode::kFailedPrecondition);
  tensors.erase(tensors.begin());
  EXPECT_TRUE(store.Reserve("a", Output()).ok());
}

TEST_F(TensorStoreTest, AGroupStaysTogetherAndGroupsSpread) {
  Tenants tenants({.tensor_bytes = 1 << 20});
  TensorStore store({.unit_bytes = 1 << 20}, tenants, admission_,
                    {device_.get(), other_device_.get()});
  const auto a1 = *store.Reserve("me", Output("a"));
  const auto a2 = *store.Reserve("me", Output("a"));
  const auto b = *store.Reserve("me", Output("b"));
  const auto yours = *store.Reserve("you", Output("a"));
  EXPECT_EQ(&a1->device(), &a2->device());
  EXPECT_NE(&a1->device(), &b->device());
  EXPECT_EQ(&yours->device(), &b->device());  // another tenant's group is another group
}

TEST_F(TensorStoreTest, KeysPayForBeingKeptPrepared) {
  Tenants tenants({.tensor_bytes = 8 << 20});
  TensorStore store({.unit_bytes = 1 << 20}, tenants, admission_, {device_.get()});
  PutSpec spec = Output();
  spec.tensor.role = TensorRole::kV;
  const auto v = *store.Reserve("me", spec);
  spec.tensor.role = TensorRole::kK;
  spec.tensor.precisions = {Precision::kQkInt8PvFp16};
  const auto k = *store.Reserve("me", spec);
  EXPECT_GT(k->stored_bytes(), v->stored_bytes());
  EXPECT_EQ(device_->memory().reserved(), k->stored_bytes() + v->stored_bytes());
}

TEST_F(TensorStoreTest, AMaskIsMadeOnceThereIsRoomForIt) {
  Tenants tenants({}, {{"none", {.tensors = 0}}, {"small", {.tensor_bytes = 4 << 10}}});
  TensorStore store({.unit_bytes = 1 << 20}, tenants, admission_, {device_.get()});
  for (const char* tenant : {"none", "small"}) {
    EXPECT_EQ(store.Reserve(tenant, Mask()).status().code(), absl::StatusCode::kFailedPrecondition);
  }
  EXPECT_EQ(masks_made_, 0);
  EXPECT_TRUE(store.Reserve("me", Mask()).ok());
  EXPECT_EQ(masks_made_, 1);
}

TEST_F(TensorStoreTest, AMaskIsKeptWithoutListsWhereThereIsNoRoomForThem) {
  Tenants tenants({}, {{"small", {.tensor_bytes = 64 << 10}}});
  Admission small_host(64 << 10, 4);
  TensorStore store({.unit_bytes = 1 << 20}, tenants, admission_, {device_.get()});
  TensorStore small_store({.unit_bytes = 1 << 20}, tenants, small_host, {device_.get()});
  const auto with_lists = store.Reserve("me", Mask());
  ASSERT_TRUE(with_lists.ok()) << with_lists.status();
  const BlockMask& mask = (*with_lists)->mask()->mask;
  EXPECT_TRUE((*with_lists)->mask()->lists.has_value());
  const std::uint64_t bytes = mask.bits().size() + BlockLists::Bytes(mask);
  EXPECT_EQ((*with_lists)->stored_bytes(), SlabPool::RoundUp(bytes));
  EXPECT_EQ(admission_.host().reserved(), bytes);

  const auto no_quota = store.Reserve("small", Mask());
  const auto no_host_memory = small_store.Reserve("me", Mask());
  for (const auto& tensor : {no_quota, no_host_memory}) {
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_FALSE((*tensor)->mask()->lists.has_value());
    EXPECT_EQ((*tensor)->stored_bytes(), SlabPool::RoundUp(mask.bits().size()));
  }
  EXPECT_EQ(admission_.host().reserved(), bytes + mask.bits().size());
  EXPECT_EQ(small_host.host().reserved(), mask.bits().size());
}

// Threads put, find, renew, release and let leases end, all at once; nothing is left.
TEST_F(TensorStoreTest, ManyThreadsLeaveNothing) {
  const std::uint64_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  Tenants tenants({.tensor_bytes = 16 << 20});
  TensorStore store({.unit_bytes = 1 << 20}, tenants, admission_,
                    {device_.get(), other_device_.get()});
  std::atomic<int> put = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937_64 random(seed + t);
      const std::string tenant = t % 2 == 0 ? "even" : "odd";
      std::vector<std::string> mine;
      for (int i = 0; i < 300; ++i) {
        PutSpec spec = Output(std::to_string(random() % 3));
        if (random() % 2 == 0) spec.lease = std::chrono::milliseconds(1 + random() % 3);
        if (random() % 2 == 0) spec.idempotency_key = std::to_string(random() % 8);
        // A key may name a tensor of another group; then it is refused.
        if (auto tensor = store.Reserve(tenant, spec); tensor.ok()) {
          if (auto handle = store.Publish(tenant, spec, *std::move(tensor)); handle.ok()) {
            mine.push_back(handle->id);
            ++put;
          }
        }
        if (mine.empty()) continue;
        const std::string& any = mine[random() % mine.size()];
        store.Find(tenant, any);
        store.Renew(tenant, any, std::chrono::milliseconds(5));
        if (random() % 3 == 0) store.Release(tenant, any);
      }
      for (const std::string& id : mine) store.Release(tenant, id);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(put, 0);
  EXPECT_EQ(store.size(), 0u);
  EXPECT_EQ(store.stored_bytes(), 0u);
}

}  // namespace
}  // namespace sage::server
