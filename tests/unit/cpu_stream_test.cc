// Streams, events, memory and threads of the CPU backend.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/bounded_allocator.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/work_queue.h"

namespace sage {
namespace {

using ::testing::HasSubstr;

TEST(ThreadPoolTest, RunsEveryIterationOnceAndKeepsParticipantsApart) {
  ThreadPool pool(4);
  ASSERT_EQ(pool.num_threads(), 4);
  for (const std::int64_t iterations : {0, 1, 2, 1000}) {
    std::vector<std::atomic<int>> calls(iterations);
    std::vector<std::int64_t> sums(4, 0);  // unguarded: a shared participant is a race
    pool.ParallelFor(iterations, [&](std::int64_t i, int participant) {
      ++calls[i];
      sums[participant] += i;
    });
    for (const auto& call : calls) EXPECT_EQ(call, 1);
    EXPECT_EQ(std::accumulate(sums.begin(), sums.end(), std::int64_t{0}),
              iterations * (iterations - 1) / 2);
  }
}

TEST(ThreadPoolTest, LoopsOfSeveralThreadsAllFinish) {
  ThreadPool pool(3);
  std::atomic<std::int64_t> total{0};
  std::vector<std::thread> callers;
  callers.reserve(4);
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int loop = 0; loop < 50; ++loop) {
        pool.ParallelFor(20, [&](std::int64_t i, int) { total += i; });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(total, 4 * 50 * 190);
}

TEST(WorkQueueTest, TheFirstFailureDropsOperationsUntilACallbackReportsIt) {
  std::vector<std::string> seen;
  {
    WorkQueue queue;
    const auto report = [&seen](const absl::Status& status) {
      seen.emplace_back(status.message());
    };
    queue.AddCallback(report);
    queue.Add([] { return absl::InternalError("first"); });
    queue.Add([&seen] {
      seen.emplace_back("ran after a failure");
      return absl::InternalError("second");
    });
    queue.AddSignal([&seen] { seen.emplace_back("signal"); });
    queue.AddCallback(report);
    queue.AddCallback(report);
    queue.Add([&seen] {
      seen.emplace_back("operation");
      return absl::OkStatus();
    });
  }  // waits
  EXPECT_THAT(seen, ::testing::ElementsAre("", "signal", "first", "", "operation"));
}

TEST(BoundedAllocatorTest, HoldsItsLimit) {
  BoundedAllocator allocator(4096);
  EXPECT_EQ(allocator.Allocate(4097).status().code(), absl::StatusCode::kResourceExhausted);
  std::byte* const a = *allocator.Allocate(2048);
  std::byte* const b = *allocator.Allocate(2048);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a) % 256, 0U);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b) % 256, 0U);
  const absl::Status full = allocator.Allocate(1).status();
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("4096"));
  allocator.Free(a, 2048);
  allocator.Free(b, 2048);
  std::byte* const whole = *allocator.Allocate(4096);
  std::memset(whole, 1, 4096);
  allocator.Free(whole, 4096);
}

TEST(BoundedAllocatorTest, AnAllocationOfNothingIsValid) {
  BoundedAllocator allocator(256);
  std::byte* const data = *allocator.Allocate(0);
  EXPECT_NE(data, nullptr);
  allocator.Free(data, 0);
}

class CpuStreamTest : public ::testing::Test {
 protected:
  const std::unique_ptr<Backend> backend_ =
      *CreateCpuBackend({.num_threads = 2, .memory_limit_bytes = 1 << 20});
  const std::unique_ptr<Stream> stream_ = *backend_->CreateStream();

  static KvTask ValidKvTask() {
    return {.num_heads = 1, .length_k = 0, .head_dim = 64, .k = {}, .v = {}};
  }
};

TEST_F(CpuStreamTest, DescribesItself) {
  EXPECT_EQ(backend_->info().name, "cpu");
  EXPECT_FALSE(backend_->info().device_name.empty());
  EXPECT_FALSE(backend_->info().kernel_path.empty());
  EXPECT_EQ(backend_->info().device_memory_bytes, 1 << 20);
  EXPECT_TRUE(backend_->info().unified_memory);
  EXPECT_TRUE(backend_->Health().ok());
}

TEST_F(CpuStreamTest, RefusesAWrongNumberOfThreads) {
  EXPECT_EQ(CreateCpuBackend({.num_threads = -1}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CreateCpuBackend({.num_threads = 1025}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CpuStreamTest, MemoryIsLimitedOverBothKindsAndReturns) {
  Memory host = *backend_->Allocate(MemoryKind::kHost, 1 << 19);
  Memory device = *backend_->Allocate(MemoryKind::kDevice, 1 << 19);
  EXPECT_EQ(backend_->Allocate(MemoryKind::kDevice, 1).status().code(),
            absl::StatusCode::kResourceExhausted);
  host.Reset();
  device = Memory();
  EXPECT_TRUE(backend_->Allocate(MemoryKind::kDevice, 1 << 20).ok());
}

TEST_F(CpuStreamTest, CopiesRunInOrderBeforeTheCallback) {
  std::vector<int> source(1000);
  std::iota(source.begin(), source.end(), 0);
  std::vector<int> result(1000, -1);
  const Memory memory = *backend_->Allocate(MemoryKind::kDevice, 4000);
  ASSERT_TRUE(stream_->CopyToDevice(memory.data(), source.data(), 4000).ok());
  ASSERT_TRUE(stream_->CopyToHost(result.data(), memory.data(), 4000).ok());
  std::promise<bool> same;
  ASSERT_TRUE(stream_
                  ->Then([&](const absl::Status& status) {
                    same.set_value(status.ok() && result == source);
                  })
                  .ok());
  EXPECT_TRUE(same.get_future().get());
}

TEST_F(CpuStreamTest, CallbacksRunOnceEachInTheOrderIssued) {
  std::vector<int> order;
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(stream_->Then([&order, i](const absl::Status&) { order.push_back(i); }).ok());
  }
  ASSERT_TRUE(stream_->Synchronize().ok());
  std::vector<int> want(100);
  std::iota(want.begin(), want.end(), 0);
  EXPECT_EQ(order, want);
}

TEST_F(CpuStreamTest, WaitHoldsAStreamUntilTheOtherReachesTheEvent) {
  const std::unique_ptr<Stream> other = *backend_->CreateStream();
  const std::unique_ptr<Event> event = *backend_->CreateEvent();
  std::promise<void> gate;
  int value = 0;  // unguarded: the event orders the streams
  ASSERT_TRUE(stream_
                  ->Then([&, opened = gate.get_future().share()](const absl::Status&) {
                    opened.wait();
                    value = 1;
                  })
                  .ok());
  ASSERT_TRUE(stream_->Record(*event).ok());
  ASSERT_TRUE(other->Wait(*event).ok());
  int seen = -1;
  ASSERT_TRUE(other->Then([&](const absl::Status&) { seen = value; }).ok());
  gate.set_value();
  ASSERT_TRUE(other->Synchronize().ok());
  EXPECT_EQ(seen, 1);
}

// A stream waits for the recording that was the last when it was told to, also where the event is
// recorded again on a stream that gets there first.
TEST_F(CpuStreamTest, WaitIsForTheRecordingOfItsTime) {
  const std::unique_ptr<Stream> faster = *backend_->CreateStream();
  const std::unique_ptr<Stream> waiting = *backend_->CreateStream();
  const std::unique_ptr<Event> event = *backend_->CreateEvent();
  std::promise<void> gate;
  std::atomic<bool> open = false;
  ASSERT_TRUE(stream_
                  ->Then([&, opened = gate.get_future().share()](const absl::Status&) {
                    opened.wait();
                    open = true;
                  })
                  .ok());
  ASSERT_TRUE(stream_->Record(*event).ok());
  ASSERT_TRUE(waiting->Wait(*event).ok());
  bool was_open = false;
  ASSERT_TRUE(waiting->Then([&](const absl::Status&) { was_open = open; }).ok());
  ASSERT_TRUE(faster->Record(*event).ok());
  ASSERT_TRUE(faster->Synchronize().ok());
  gate.set_value();
  ASSERT_TRUE(waiting->Synchronize().ok());
  EXPECT_TRUE(was_open);
}

TEST_F(CpuStreamTest, EventsThatNobodyRecordsAreNotWaitedFor) {
  const std::unique_ptr<Event> event = *backend_->CreateEvent();
  ASSERT_TRUE(stream_->Wait(*event).ok());
  EXPECT_TRUE(stream_->Synchronize().ok());
}

TEST_F(CpuStreamTest, EventsMayGoBeforeTheWorkThatNamesThem) {
  std::unique_ptr<Event> event = *backend_->CreateEvent();
  std::promise<void> gate;
  ASSERT_TRUE(
      stream_->Then([opened = gate.get_future().share()](const absl::Status&) { opened.wait(); })
          .ok());
  ASSERT_TRUE(stream_->Record(*event).ok());
  ASSERT_TRUE(stream_->Wait(*event).ok());
  event.reset();
  gate.set_value();
  EXPECT_TRUE(stream_->Synchronize().ok());
}

TEST_F(CpuStreamTest, EventsMeasureTimeOnceReached) {
  const std::unique_ptr<Event> begin = *backend_->CreateEvent();
  const std::unique_ptr<Event> end = *backend_->CreateEvent();
  EXPECT_EQ(end->SecondsSince(*begin).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(stream_->Record(*begin).ok());
  ASSERT_TRUE(stream_->Record(*end).ok());
  ASSERT_TRUE(stream_->Synchronize().ok());
  EXPECT_GE(*end->SecondsSince(*begin), 0.0);
  // Recording again moves the event.
  ASSERT_TRUE(stream_->Record(*begin).ok());
  ASSERT_TRUE(stream_->Synchronize().ok());
  EXPECT_LE(*end->SecondsSince(*begin), 0.0);
}

TEST_F(CpuStreamTest, DestructionWaitsForTheWork) {
  std::atomic<int> done{0};
  {
    const std::unique_ptr<Stream> stream = *backend_->CreateStream();
    for (int i = 0; i < 50; ++i) {
      ASSERT_TRUE(stream->Then([&](const absl::Status&) { ++done; }).ok());
    }
  }
  EXPECT_EQ(done, 50);
}

TEST_F(CpuStreamTest, RefusesTasksThatBreakTheRules) {
  const auto expect_refused = [&](const KvTask& kv, const char* field) {
    const absl::Status status = stream_->PrepareKv(kv, nullptr);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(field));
  };
  for (const std::int64_t head_dim : {0, 4, 60, 136}) {
    KvTask kv = ValidKvTask();
    kv.head_dim = head_dim;
    expect_refused(kv, "head_dim");
  }
  KvTask kv = ValidKvTask();
  kv.dtype = DType::kFloat32;
  expect_refused(kv, "dtype");
  kv = ValidKvTask();
  kv.num_heads = 0;
  expect_refused(kv, "heads");

  AttendTask task;
  task.kv = ValidKvTask();
  task.kv.num_heads = 2;
  task.num_heads_q = 3;
  EXPECT_EQ(stream_->Attend({&task, 1}, nullptr).code(), absl::StatusCode::kInvalidArgument);
  task.num_heads_q = 4;
  task.q_begin = 64;
  EXPECT_EQ(stream_->Attend({&task, 1}, nullptr).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(stream_->Synchronize().ok());
}

TEST_F(CpuStreamTest, ALaunchOfNothingSucceeds) {
  const Memory workspace = *backend_->Allocate(MemoryKind::kDevice, 0);
  ASSERT_TRUE(stream_->Attend({}, workspace.data()).ok());
  EXPECT_TRUE(stream_->Synchronize().ok());
}

TEST_F(CpuStreamTest, SupportsEveryPrecisionAndHalfType) {
  AttentionProblem problem;
  problem.head_dim = 72;
  for (const Precision precision :
       {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8, Precision::kFp16}) {
    problem.precision = precision;
    EXPECT_TRUE(backend_->CheckSupported(problem).ok());
  }
  problem.head_dim = 256;
  EXPECT_EQ(backend_->CheckSupported(problem).code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace sage
