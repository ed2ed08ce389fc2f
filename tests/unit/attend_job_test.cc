#include "server/attend_job.h"

#include <chrono>
#include <cstdint>
#include <memory>
#include <random>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/support/job_driver.h"

namespace sage::server {
namespace {

using ::testing::HasSubstr;

class AttendJobTest : public ::testing::Test {
 protected:
  AttendJobTest() : device_(*Device::Create(*CreateCpuBackend({.num_threads = 1}), 64 << 20, {})) {}

  static JobSpec Spec(std::int64_t heads, std::int64_t seqlen, std::int64_t head_dim) {
    JobSpec spec;
    AttentionProblem& problem = spec.problem;
    problem.batch = 1;
    problem.num_heads_q = problem.num_heads_kv = heads;
    problem.seqlen_q = problem.seqlen_k = seqlen;
    problem.head_dim = head_dim;
    problem.return_lse = true;
    spec.request_id = "test";
    return spec;
  }

  absl::StatusOr<std::unique_ptr<AttendJob>> Create(JobSpec spec, std::uint64_t window_bytes) {
    return AttendJob::Create(std::move(spec), resources_, *device_, window_bytes);
  }

  std::unique_ptr<Device> device_;
  Admission admission_{64 << 20, 4};
  SlabPool pool_{device_->backend(), MemoryKind::kHost, 64 << 20};
  Ingest ingest_;
  JobResources resources_{admission_, pool_, ingest_, {.unit_bytes = 1 << 16}};
};

TEST_F(AttendJobTest, TakesExactlyWhatComesNext) {
  auto job = Create(Spec(2, 64, 64), 1 << 20);  // two heads, 8 KiB a piece
  ASSERT_TRUE(job.ok()) << job.status();
  const std::uint64_t q = (*job)->units()[0].q_bytes;
  const auto refused = [&](Piece piece, std::uint32_t unit, std::uint64_t offset,
                           std::uint64_t size, const std::string& why) {
    const auto got = (*job)->Receive(piece, unit, offset, size);
    EXPECT_EQ(got.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(got.status().message()), HasSubstr(why));
  };
  refused(Piece::kK, 0, 0, 16,
          "chunk: got k of unit 0 at offset 0; next is q of unit 0 at offset 0");
  refused(Piece::kQ, 1, 0, 16, "got q of unit 1");
  refused(Piece::kQ, 0, 16, 16, "offset 16; next is q of unit 0 at offset 0");  // gap
  ASSERT_TRUE((*job)->Receive(Piece::kQ, 0, 0, 16).ok());
  refused(Piece::kQ, 0, 0, 16, "next is q of unit 0 at offset 16");  // duplicate
  refused(Piece::kQ, 0, 8, 16, "next is q of unit 0 at offset 16");  // overlap
  refused(Piece::kQ, 0, 16, q, "allowed at most");                   // out of range
  ASSERT_TRUE((*job)->Receive(Piece::kQ, 0, 16, q - 16).ok());
  refused(Piece::kQ, 0, q, 1, "next is k of unit 0 at offset 0");
  EXPECT_FALSE((*job)->payload_complete());
}

TEST_F(AttendJobTest, RefusesPayloadPastTheEnd) {
  auto job = Create(Spec(1, 64, 64), 1 << 20);
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE(testing::SendUnit(**job, 0).has_value());
  EXPECT_TRUE((*job)->payload_complete());
  const auto more = (*job)->Receive(Piece::kQ, 1, 0, 1);
  EXPECT_THAT(std::string(more.status().message()), HasSubstr("after the whole payload"));
}

// Nothing of the device is queued: what is short is the line.
TEST_F(AttendJobTest, RefusesWhatItsLineCannotBringInTime) {
  const Ingest::LineId line{.name = "slow"};
  const auto begin = std::chrono::steady_clock::now();
  Ingest::Turn before = ingest_.Join(line, {.payload = 14 << 20}, 0, begin);
  for (int i = 1; i <= 4; ++i) {  // at 4 MiB/s, and 10 MiB are left of it
    before.Received(1 << 20, true, begin + i * std::chrono::milliseconds(250));
  }
  const auto create = [&](const Ingest::LineId& line, std::chrono::seconds deadline) {
    JobSpec spec = Spec(1, 8192, 128);  // 6 MiB, and 2 to answer
    spec.line = line;
    spec.deadline = begin + deadline;
    return Create(std::move(spec), 32 << 20);
  };
  const auto refused = create(line, std::chrono::seconds(4));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(
      std::string(refused.status().message()),
      ::testing::MatchesRegex("the deadline cannot be met: about 2008 ms are needed to send and to "
                              "answer, 2008 ms of others come before, [34][0-9]{3} ms are left"));
  EXPECT_TRUE(refused.status().GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
  EXPECT_EQ(ingest_.waiting(), 0U);
  EXPECT_TRUE(create({.name = "other"}, std::chrono::seconds(4)).ok());
  const auto accepted = create(line, std::chrono::seconds(60));
  ASSERT_TRUE(accepted.ok()) << accepted.status();
}

// The promise of Accepted.window_bytes: whoever keeps to the window is never held back.
TEST_F(AttendJobTest, AClientWithinItsWindowIsNeverHeldBack) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 100; ++round) {
    JobSpec spec = Spec(1 + random() % 8, 1 + random() % 3000, 8 * (1 + random() % 16));
    const AttentionProblem& problem = spec.problem;
    const bool int8 = random() % 2 == 0;
    if (int8 && random() % 2 == 0) {
      spec.quantized.q.resize(problem.lse_elements());
      spec.quantized.q_dots.resize(problem.lse_elements());
    }
    if (int8 && random() % 2 == 0) {
      spec.quantized.k.resize(problem.num_heads_kv * problem.blocks_k());
      spec.quantized.smoothing.resize(problem.num_heads_kv * problem.head_dim);
    }
    std::optional<UsedBlocks> used;
    MayLeaveOut may;
    if (random() % 2 == 0) {
      spec.omit_unused_kv = true;
      if (!int8) spec.problem.precision = Precision::kFp16;
      const BlockMask mask = *BlockMask::FromPattern(problem, SlidingWindowPattern{});
      spec.mask_bytes = mask.bits().size();
      spec.make_mask = [mask] { return mask; };
      used.emplace(problem, mask);
      may = UnusedMayBeLeftOut(problem.precision, !spec.quantized.k.empty());
    }
    resources_.plan_limits.unit_bytes = std::uint64_t{1} << (10 + random() % 12);
    auto job = Create(std::move(spec), std::uint64_t{1} << (10 + random() % 14));
    ASSERT_TRUE(job.ok()) << job.status();
    const std::vector<Unit>& units = (*job)->units();
    std::uint64_t unanswered = 0;
    std::uint32_t next_answer = 0;
    std::vector<UnitWork> running;
    for (std::uint32_t i = 0; i < units.size(); ++i) {
      const std::uint64_t payload = units[i].payload_bytes();  // what is left out counts, too
      std::uint64_t k_bytes = units[i].k_bytes;
      std::uint64_t v_bytes = units[i].v_bytes;
      if (used.has_value()) {
        std::uint64_t rows = 0;
        for (const RowRange& some :
             used->RowsOf(units[i].batch, units[i].kv_head_begin, units[i].kv_head_count)) {
          rows += some.count;
        }
        const std::uint64_t seqlen_k = (*job)->problem().seqlen_k;
        if (may.k) k_bytes = k_bytes / seqlen_k * rows;
        if (may.v) v_bytes = v_bytes / seqlen_k * rows;
      }
      const std::uint64_t omitted = units[i].k_bytes - k_bytes + units[i].v_bytes - v_bytes;
      // Send a first byte as early as the window allows, the rest only once all of it fits.
      const auto answer_one = [&] {
        ASSERT_LT(next_answer, i);
        unanswered -= units[next_answer].payload_bytes();
        running.erase(running.begin());
        (*job)->OutputSent(next_answer++);
      };
      while (unanswered + omitted + 1 > (*job)->window_bytes()) answer_one();
      ASSERT_TRUE((*job)->CanReceive());
      ASSERT_TRUE((*job)->Receive(Piece::kQ, i, 0, 1).ok());
      while (unanswered + payload > (*job)->window_bytes()) answer_one();
      for (const auto& [piece, begin, bytes] :
           {std::tuple(Piece::kQ, std::uint64_t{1}, units[i].q_bytes - 1),
            std::tuple(Piece::kK, std::uint64_t{0}, k_bytes),
            std::tuple(Piece::kV, std::uint64_t{0}, v_bytes)}) {
        if (bytes == 0) continue;
        ASSERT_TRUE((*job)->CanReceive());
        ASSERT_TRUE((*job)->Receive(piece, i, begin, bytes).ok());
      }
      auto work = (*job)->TakeReadyUnit();
      ASSERT_TRUE(work.ok() && work->has_value());
      running.push_back(**std::move(work));
      unanswered += payload;
      ASSERT_LE(pool_.in_use_bytes(), admission_.host().reserved());
    }
    running.clear();
    ASSERT_TRUE((*job)->payload_complete());
  }
  EXPECT_EQ(pool_.in_use_bytes(), 0u);
}

TEST_F(AttendJobTest, ReservesBeforePayloadAndGivesItBack) {
  auto job = Create(Spec(4, 256, 64), 1 << 20);
  ASSERT_TRUE(job.ok());
  EXPECT_GT(admission_.host().reserved(), 0u);
  EXPECT_GT(device_->memory().reserved(), 0u);
  EXPECT_EQ(admission_.active_requests(), 1u);
  EXPECT_EQ(pool_.in_use_bytes(), 0u);
  job->reset();
  EXPECT_EQ(admission_.host().reserved(), 0u);
  EXPECT_EQ(admission_.active_requests(), 0u);
}

TEST_F(AttendJobTest, RefusesWhatDoesNotFit) {
  // A unit of 2 x 48 MiB of keys and values can never fit into 64 MiB.
  auto never = Create(Spec(1, 200000, 128), 1 << 20);
  EXPECT_EQ(never.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(never.status().message()), HasSubstr("server.host_bytes"));

  std::vector<std::unique_ptr<AttendJob>> jobs;
  absl::Status refused;
  while (refused.ok()) {
    auto job = Create(Spec(1, 40000, 128), 1 << 20);
    refused = job.status();
    if (job.ok()) jobs.push_back(*std::move(job));
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  ASSERT_FALSE(jobs.empty());
  jobs.pop_back();
  EXPECT_TRUE(Create(Spec(1, 40000, 128), 1 << 20).ok());
}

TEST_F(AttendJobTest, CapsConcurrentRequests) {
  std::vector<std::unique_ptr<AttendJob>> jobs;
  for (int i = 0; i < 4; ++i) {
    auto job = Create(Spec(1, 1, 8), 1);
    ASSERT_TRUE(job.ok());
    jobs.push_back(*std::move(job));
  }
  const auto fifth = Create(Spec(1, 1, 8), 1);
  EXPECT_EQ(fifth.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(fifth.status().message()), HasSubstr("server.concurrent_requests"));
}

}  // namespace
}  // namespace sage::server
