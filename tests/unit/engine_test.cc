#include "server/engine.h"

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/attend_job.h"
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

  // A job of `units` heads, one unit each.
  AttendJob& NewJob(std::int64_t units, std::chrono::steady_clock::time_point deadline =
                                            std::chrono::steady_clock::time_point::max()) {
    JobSpec spec;
    AttentionProblem& problem = spec.problem;
    problem.batch = 1;
    problem.num_heads_q = problem.num_heads_kv = units;
    problem.seqlen_q = problem.seqlen_k = 100;
    problem.head_dim = 64;
    spec.deadline = deadline;
    auto job = AttendJob::Create(std::move(spec), resources_, *device_, 32 << 20);
    EXPECT_TRUE(job.ok()) << job.status();
    jobs_.push_back(*std::move(job));
    return *jobs_.back();
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
  JobResources resources_{admission_, host_pool_, {.unit_bytes = 1}};
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
  faults_.hold_attends = false;
  faults_.hold_attends.notify_all();
  EXPECT_THAT(held.Await(2), Each(absl::StatusCode::kOk));
}

TEST_F(EngineTest, UnitsPastTheirDeadlineDoNotStart) {
  Results results;
  SubmitAll(NewJob(3, std::chrono::steady_clock::now()), results);
  EXPECT_THAT(results.Await(3), Each(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(engine_->units_computed(), 0u);
}

TEST_F(EngineTest, DestructionEndsWhatIsQueuedAndWaitsForWhatRuns) {
  Results results;
  SubmitAll(NewJob(50), results);
  engine_.reset();
  EXPECT_THAT(results.Await(50), SizeIs(50));
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
