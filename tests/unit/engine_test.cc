#include "server/engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/attend_job.h"
#include "server/errors.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/job_driver.h"

namespace sage::server {
namespace {

using ::testing::Each;
using ::testing::SizeIs;

// Collects results from the engine's thread.
class Results {
 public:
  std::function<void(UnitResult)> Take() {
    return [this](UnitResult result) {
      result.out.Reset();
      // Notified under the lock: once Await() returns, this object may go.
      const std::lock_guard lock(mutex_);
      codes_.push_back(result.status.code());
      changed_.notify_all();
    };
  }
  std::vector<absl::StatusCode> Await(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return codes_.size() >= count; });
    return codes_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<absl::StatusCode> codes_;
};

class EngineTest : public ::testing::Test {
 protected:
  EngineTest()
      : device_(*Device::Create(
            testing::MakeFaultyBackend(*CreateCpuBackend({.num_threads = 2}), faults_), 256 << 20,
            {})),
        engine_(*Engine::Create(device_->backend(), device_->pool(),
                                {.streams = 2, .launch_units = 1})) {}

  // Requests hold nothing at the end of a test.
  void TearDown() override {
    engine_.reset();
    jobs_.clear();
    EXPECT_EQ(host_pool_.in_use_bytes(), 0u);
    EXPECT_EQ(device_->pool().in_use_bytes(), 0u);
    EXPECT_EQ(admission_.host().reserved(), 0u);
  }

  static constexpr auto kNoDeadline = std::chrono::steady_clock::time_point::max();

  static JobSpec Spec(std::int64_t units, std::chrono::steady_clock::time_point deadline,
                      const std::string& tenant) {
    JobSpec spec;
    AttentionProblem& problem = spec.problem;
    problem.batch = 1;
    problem.num_heads_q = problem.num_heads_kv = units;
    problem.seqlen_q = problem.seqlen_k = 100;
    problem.head_dim = 64;
    spec.deadline = deadline;
    spec.tenant = tenant;
    return spec;
  }

  // A job of `units` heads, one unit each.
  AttendJob& NewJob(std::int64_t units,
                    std::chrono::steady_clock::time_point deadline = kNoDeadline,
                    const std::string& tenant = "default") {
    auto job = AttendJob::Create(Spec(units, deadline, tenant), resources_, *device_, 32 << 20);
    EXPECT_TRUE(job.ok()) << job.status();
    jobs_.push_back(*std::move(job));
    return *jobs_.back();
  }

  void ReleaseAttends() {
    faults_.hold_attends = false;
    faults_.hold_attends.notify_all();
  }

  void SubmitAll(AttendJob& job, Results& results) {
    for (std::uint32_t unit = 0; unit < job.units().size(); ++unit) {
      auto work = testing::SendUnit(job, unit);
      ASSERT_TRUE(work.has_value());
      work->done = results.Take();
      engine_->Submit(*std::move(work));
    }
  }

  testing::Faults faults_;
  std::unique_ptr<Device> device_;
  SlabPool host_pool_{device_->backend(), MemoryKind::kHost, 256 << 20};
  Admission admission_{256 << 20, 100};
  Ingest ingest_;
  JobResources resources_{admission_, host_pool_, ingest_, {.unit_bytes = 1}};
  std::vector<std::unique_ptr<AttendJob>> jobs_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, RunsEveryUnitOnce) {
  Results results;
  for (int i = 0; i < 10; ++i) SubmitAll(NewJob(20), results);
  EXPECT_THAT(results.Await(200), ::testing::AllOf(SizeIs(200), Each(absl::StatusCode::kOk)));
  EXPECT_EQ(engine_->units_computed(), 200u);
}

TEST_F(EngineTest, AFailedUnitFailsAloneAndTheNextOnesRun) {
  faults_.attends = 1;
  Results results;
  SubmitAll(NewJob(1), results);
  EXPECT_THAT(results.Await(1), Each(absl::StatusCode::kInternal));
  SubmitAll(NewJob(3), results);
  const std::vector<absl::StatusCode> codes = results.Await(4);
  EXPECT_EQ(std::count(codes.begin(), codes.end(), absl::StatusCode::kOk), 3);
}

TEST_F(EngineTest, FailuresOfPreparationAndMemoryReachTheirUnit) {
  faults_.prepares = 1;
  Results prepare;
  SubmitAll(NewJob(1), prepare);
  EXPECT_THAT(prepare.Await(1), Each(absl::StatusCode::kInternal));

  AttendJob& job = NewJob(1);
  auto work = testing::SendUnit(job, 0);
  ASSERT_TRUE(work.has_value());
  faults_.allocations = 1;  // the next allocation, of device memory, or none where a slab is kept
  Results memory;
  work->done = memory.Take();
  engine_->Submit(*std::move(work));
  memory.Await(1);
  faults_.allocations = 0;
}

TEST_F(EngineTest, CancelledUnitsLeaveTheQueueWhileOthersRun) {
  faults_.hold_attends = true;
  Results held;
  SubmitAll(NewJob(2), held);  // occupies both streams
  Results cancelled;
  AttendJob& job = NewJob(5);
  SubmitAll(job, cancelled);
  engine_->Cancel(*job.context());
  EXPECT_THAT(cancelled.Await(5), ::testing::AllOf(SizeIs(5), Each(absl::StatusCode::kCancelled)));
  ReleaseAttends();
  EXPECT_THAT(held.Await(2), Each(absl::StatusCode::kOk));
}

TEST_F(EngineTest, AUnitCancelledWhileItRunsEndsWithThat) {
  faults_.hold_attends = true;
  Results results;
  AttendJob& job = NewJob(1);
  SubmitAll(job, results);
  while (engine_->queue_depth() > 0) std::this_thread::yield();
  engine_->Cancel(*job.context());
  ReleaseAttends();
  EXPECT_THAT(results.Await(1), Each(absl::StatusCode::kCancelled));
}

TEST_F(EngineTest, UnitsPastTheirDeadlineDoNotStart) {
  Results results;
  AttendJob& job = NewJob(3);
  job.context()->deadline = std::chrono::steady_clock::now();
  SubmitAll(job, results);
  EXPECT_THAT(results.Await(3), Each(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(engine_->units_computed(), 0u);
}

TEST_F(EngineTest, DestructionEndsWhatIsQueuedAndWaitsForWhatRuns) {
  Results results;
  SubmitAll(NewJob(50), results);
  engine_.reset();
  EXPECT_THAT(results.Await(50), SizeIs(50));
}

TEST_F(EngineTest, TenantsTakeTurns) {
  engine_ = *Engine::Create(device_->backend(), device_->pool(), {.streams = 1, .launch_units = 1});
  faults_.hold_attends = true;
  Results results;
  SubmitAll(NewJob(1), results);  // occupies the stream
  while (engine_->queue_depth() > 0) std::this_thread::yield();
  std::vector<std::string> order;  // written by the engine's thread, read once all have ended
  for (const char* tenant : {"many", "many", "many", "one"}) {
    AttendJob& job = NewJob(2, kNoDeadline, tenant);
    for (std::uint32_t unit = 0; unit < 2; ++unit) {
      auto work = testing::SendUnit(job, unit);
      ASSERT_TRUE(work.has_value());
      work->done = [&order, tenant, done = results.Take()](UnitResult result) {
        order.emplace_back(tenant);
        done(std::move(result));
      };
      engine_->Submit(*std::move(work));
    }
  }
  ReleaseAttends();
  EXPECT_THAT(results.Await(9), Each(absl::StatusCode::kOk));
  EXPECT_THAT(order,
              ::testing::ElementsAre("many", "one", "many", "one", "many", "many", "many", "many"));
}

TEST_F(EngineTest, SmallUnitsThatWaitTogetherShareFewLaunches) {
  Engine& engine = device_->engine();
  faults_.hold_attends = true;
  Results results;
  const auto submit = [&](AttendJob& job) {
    auto work = testing::SendUnit(job, 0);
    ASSERT_TRUE(work.has_value());
    work->done = results.Take();
    engine.Submit(*std::move(work));
  };
  submit(NewJob(1));
  submit(NewJob(1));
  while (engine.queue_depth() > 0) std::this_thread::yield();
  const std::uint64_t before = engine.launches();
  for (int i = 0; i < 90; ++i) submit(NewJob(1));
  ReleaseAttends();
  EXPECT_THAT(results.Await(92), Each(absl::StatusCode::kOk));
  EXPECT_LE(engine.launches() - before, 4u);
}

TEST_F(EngineTest, WhoSubmitsLaunchesWhereNothingIsBefore) {
  std::thread::id launcher;
  engine_ = *Engine::Create(
      device_->backend(), device_->pool(),
      {.launched = [&](std::size_t /*units*/) { launcher = std::this_thread::get_id(); }});
  Results results;
  // Not while the engine's thread still sees to what was before.
  for (int i = 1; i <= 1000 && launcher != std::this_thread::get_id(); ++i) {
    SubmitAll(NewJob(1), results);
    results.Await(i);
    jobs_.clear();
  }
  EXPECT_EQ(launcher, std::this_thread::get_id());
}

TEST_F(EngineTest, WhoSubmitsIsNeverToldOfAnEndMeanwhile) {
  static thread_local bool submitting = false;
  constexpr int kThreads = 4;
  constexpr int kUnits = 24;
  faults_.attends = 20;
  Results results;
  std::atomic<int> told = 0;
  std::vector<std::vector<UnitWork>> works(kThreads);
  for (std::vector<UnitWork>& of_thread : works) {
    for (int i = 0; i < kUnits; ++i) {
      AttendJob& job = NewJob(1);
      auto work = testing::SendUnit(job, 0);
      ASSERT_TRUE(work.has_value());
      if (i % 3 == 0) job.context()->deadline = std::chrono::steady_clock::now();
      work->done = [&told, done = results.Take()](UnitResult result) {
        if (submitting) ++told;
        done(std::move(result));
      };
      of_thread.push_back(*std::move(work));
    }
  }
  std::vector<std::thread> threads;
  for (std::vector<UnitWork>& of_thread : works) {
    threads.emplace_back([&] {
      for (UnitWork& work : of_thread) {
        submitting = true;
        engine_->Submit(std::move(work));
        submitting = false;
        std::this_thread::yield();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<absl::StatusCode> codes = results.Await(kThreads * kUnits);
  EXPECT_EQ(std::count(codes.begin(), codes.end(), absl::StatusCode::kDeadlineExceeded),
            kThreads * kUnits / 3);
  EXPECT_EQ(std::count(codes.begin(), codes.end(), absl::StatusCode::kInternal), 20);
  EXPECT_EQ(told, 0);
}

// Admission counts what is queued before a request, by estimate.
class AdmissionTime : public EngineTest {
 protected:
  // A device on which each unit takes a second, with five of tenant `busy` that wait.
  AdmissionTime() {
    CostModel::Rates rates = {};
    rates[DeviceWork::kLaunches] = 1;
    device_->engine().cost_model().Calibrate(rates);
    faults_.hold_attends = true;
    for (int stream = 0; stream < 2; ++stream) {  // a launch on each
      Queue(NewJob(1, kNoDeadline, "busy"));
      while (device_->engine().queue_depth() > 0) std::this_thread::yield();
    }
    Queue(NewJob(5, kNoDeadline, "busy"));
  }
  void TearDown() override {
    ReleaseAttends();
    results_.Await(7);
    EngineTest::TearDown();
  }

  void Queue(AttendJob& job) {
    for (std::uint32_t unit = 0; unit < job.units().size(); ++unit) {
      auto work = testing::SendUnit(job, unit);
      ASSERT_TRUE(work.has_value());
      work->done = results_.Take();
      device_->engine().Submit(*std::move(work));
    }
  }

  // What becomes of a request of two units.
  absl::Status Try(const std::string& tenant, std::chrono::milliseconds left) {
    return AttendJob::Create(Spec(2, std::chrono::steady_clock::now() + left, tenant), resources_,
                             *device_, 32 << 20)
        .status();
  }

  static bool HasRetryDelay(const absl::Status& status) {
    return status.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value();
  }

  Results results_;
};

TEST_F(AdmissionTime, RefusesWhatCannotBeDoneInTime) {
  EXPECT_GE(device_->engine().queued_seconds(), 5);
  const absl::Status queued = Try("busy", std::chrono::seconds(6));
  EXPECT_EQ(queued.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(queued.message()),
              ::testing::MatchesRegex("the deadline cannot be met: about 2000 ms of the device are "
                                      "needed, [0-9]+ ms are queued before, [0-9]+ ms are left"));
  EXPECT_TRUE(HasRetryDelay(queued));
  const absl::Status alone = Try("busy", std::chrono::seconds(1));
  EXPECT_EQ(alone.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_FALSE(HasRetryDelay(alone)) << "waiting does not help";
  EXPECT_TRUE(Try("busy", std::chrono::seconds(60)).ok());
}

TEST_F(AdmissionTime, AnotherTenantWaitsForItsShareOnly) {
  EXPECT_EQ(Try("busy", std::chrono::seconds(8)).code(), absl::StatusCode::kDeadlineExceeded);
  // Two units of its own, two of the other tenant's, up to two that run, and a margin.
  EXPECT_TRUE(Try("idle", std::chrono::seconds(8)).ok());
}

TEST_F(AdmissionTime, RefusesMoreThanTheQueueTakes) {
  resources_.max_queue = std::chrono::seconds(3);
  const absl::Status full = Try("busy", std::chrono::seconds(60));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()),
              ::testing::MatchesRegex(
                  "server.queue_ms: the request would wait for [0-9]+, the limit is 3000"));
  EXPECT_TRUE(HasRetryDelay(full));
}

TEST_F(AdmissionTime, TheLeastLoadedDeviceIsTheOneWithTheShortestQueue) {
  const std::unique_ptr<Device> idle =
      *Device::Create(*CreateCpuBackend({.num_threads = 1}), 256 << 20, {});
  const auto much = Take(idle->memory(), idle->memory().limit(), "test");
  ASSERT_TRUE(much.ok());
  EXPECT_EQ(ByLoad({device_.get(), idle.get()}).front(), idle.get());
  EXPECT_EQ(&Emptiest({device_.get(), idle.get()}), device_.get());
  const std::unique_ptr<Device> empty =
      *Device::Create(*CreateCpuBackend({.num_threads = 1}), 256 << 20, {});
  EXPECT_EQ(ByLoad({device_.get(), idle.get(), empty.get()}).front(), empty.get());
}

TEST_F(EngineTest, QueryRangesShareTheKeysOfTheirCarrier) {
  JobSpec spec;
  spec.problem.batch = spec.problem.num_heads_q = spec.problem.num_heads_kv = 1;
  spec.problem.seqlen_q = spec.problem.seqlen_k = 1000;
  spec.problem.head_dim = 64;
  auto job = AttendJob::Create(std::move(spec), resources_, *device_, 32 << 20);
  ASSERT_TRUE(job.ok());
  ASSERT_EQ((*job)->units().size(), 8u);
  jobs_.push_back(*std::move(job));
  Results results;
  SubmitAll(*jobs_.back(), results);
  EXPECT_THAT(results.Await(8), ::testing::AllOf(SizeIs(8), Each(absl::StatusCode::kOk)));
}

}  // namespace
}  // namespace sage::server
