#include "server/resident_tensor.h"

#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/attend_job.h"
#include "server/device.h"
#include "tests/support/discrete_backend.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/problem_generator.h"

namespace sage::server {
namespace {

using ::testing::HasSubstr;

enum class DeviceMemory : std::uint8_t { kUnified, kDiscrete };

class ResidentTensorTest : public ::testing::TestWithParam<DeviceMemory> {
 protected:
  static constexpr std::uint64_t kUnitBytes = 1 << 16;

  ResidentTensorTest() : device_(*Device::Create(NewBackend(), 256 << 20, {.streams = 2})) {}

  std::unique_ptr<Backend> NewBackend() {
    std::unique_ptr<Backend> device =
        testing::MakeFaultyBackend(*CreateCpuBackend({.num_threads = 2}), faults_);
    if (GetParam() == DeviceMemory::kUnified) return device;
    return std::make_unique<testing::DiscreteBackend>(std::move(device));
  }

  // Nothing is held once tensors and jobs are gone.
  void TearDown() override {
    EXPECT_EQ(device_->pool().in_use_bytes(), 0u);
    EXPECT_EQ(device_->memory().reserved(), 0u);
    EXPECT_EQ(host_pool_.in_use_bytes(), 0u);
    EXPECT_EQ(admission_.host().reserved(), 0u);
  }

  // Two batch entries, grouped heads, three query tiles, a partial key block.
  AttentionProblem Problem(Layout layout, Precision precision) const {
    AttentionProblem problem;
    problem.batch = 2;
    problem.num_heads_q = 6;
    problem.num_heads_kv = 3;
    problem.seqlen_q = 300;
    problem.seqlen_k = 200;
    problem.head_dim = 64;
    problem.layout = layout;
    problem.precision = precision;
    problem.return_lse = true;
    return problem;
  }

  std::shared_ptr<ResidentTensor> Put(TensorRole role, const AttentionProblem& problem,
                                      const std::vector<std::byte>& data = {}) {
    const bool kv = role == TensorRole::kK || role == TensorRole::kV;
    TensorSpec spec;
    spec.role = role;
    spec.layout = problem.layout;
    spec.batch = problem.batch;
    spec.num_heads = kv ? problem.num_heads_kv : problem.num_heads_q;
    spec.seqlen = kv ? problem.seqlen_k : problem.seqlen_q;
    spec.head_dim = problem.head_dim;
    if (role == TensorRole::kK) spec.precisions = {Precision::kQkInt8PvFp16};
    ResidentTensor::Holdings holdings;
    holdings.device = *device_->memory().Reserve(SlabPool::RoundUp(spec.bytes()));
    holdings.slab = *device_->pool().Acquire(spec.bytes());
    std::memset(holdings.slab.data(), 0xff, spec.bytes());
    if (!data.empty()) std::memcpy(holdings.slab.data(), data.data(), data.size());
    const std::int64_t heads = KvHeadsPerUnit(spec.num_heads, spec.head_bytes(), kUnitBytes);
    return std::make_shared<ResidentTensor>(spec, *device_, heads, std::move(holdings));
  }

  struct Answer {
    absl::Status status;
    std::vector<std::byte> out;  // units' outputs in order, empty where the output is resident
    double prepare_seconds = 0;
    std::uint64_t payload_bytes = 0;

    friend bool operator==(const Answer& a, const Answer& b) {
      return a.status == b.status && a.out == b.out;
    }
  };

  // Runs a request to its end; what travels of `data` is sent in the plan's order.
  Answer Attend(const AttentionProblem& problem, const testing::ProblemData& data,
                const ResidentOperands& resident) {
    JobSpec spec;
    spec.problem = problem;
    spec.resident = resident;
    auto job = AttendJob::Create(std::move(spec), resources_, *device_, 1 << 17);
    if (!job.ok()) return {job.status(), {}, 0, 0};
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<UnitResult> results;
    Answer answer;
    std::vector<std::vector<std::byte>> outs((*job)->units().size());
    std::size_t taken = 0;
    const auto finish_one = [&] {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return !results.empty(); });
      UnitResult result = std::move(results.back());
      results.pop_back();
      answer.status.Update(result.status);
      answer.prepare_seconds += result.timings.prepare;
      const Unit& unit = (*job)->units()[result.unit];
      outs[result.unit].assign(result.out.data(),
                               result.out.data() + unit.out_bytes + unit.lse_bytes);
      result.out.Reset();
      (*job)->OutputSent(result.unit);
    };
    const auto submit = [&] {
      while (true) {
        auto work = (*job)->TakeReadyUnit();
        ASSERT_TRUE(work.ok()) << work.status();
        if (!work->has_value()) return;
        ++taken;
        (*work)->done = [&](UnitResult result) {
          const std::lock_guard lock(mutex);
          results.push_back(std::move(result));
          changed.notify_all();
        };
        (*job)->engine().Submit(**std::move(work));
      }
    };
    submit();
    for (std::uint32_t i = 0; i < (*job)->units().size(); ++i) {
      const Unit unit = (*job)->units()[i];
      for (const auto& [piece, whole, bytes] : {std::tuple(Piece::kQ, &data.q, unit.q_bytes),
                                                std::tuple(Piece::kK, &data.k, unit.k_bytes),
                                                std::tuple(Piece::kV, &data.v, unit.v_bytes)}) {
        if (bytes == 0) continue;
        while (!(*job)->CanReceive()) {
          finish_one();
          submit();
        }
        auto to = (*job)->Receive(piece, i, 0, bytes);
        EXPECT_TRUE(to.ok()) << to.status();
        if (!to.ok()) return {to.status(), {}, 0, 0};
        CopyPiece(problem, unit, piece != Piece::kQ, *whole, to->front());
        submit();
      }
    }
    while (!(*job)->done()) {
      finish_one();
      submit();
    }
    EXPECT_EQ(taken, (*job)->units().size());
    answer.payload_bytes = (*job)->payload_bytes();
    for (const auto& out : outs) answer.out.insert(answer.out.end(), out.begin(), out.end());
    return answer;
  }

  // HND only: heads of a piece are contiguous in the whole but for their rows.
  static void CopyPiece(const AttentionProblem& p, const Unit& unit, bool kv,
                        const std::vector<std::byte>& whole, std::span<std::byte> to) {
    const std::int64_t group = kv ? 1 : p.group_size();
    const std::int64_t heads = kv ? p.num_heads_kv : p.num_heads_q;
    const std::int64_t rows = kv ? p.seqlen_k : p.seqlen_q;
    const std::int64_t begin = kv ? 0 : unit.q_begin;
    const std::int64_t count = kv ? rows : unit.q_count;
    const std::int64_t row_bytes = p.head_dim * 2;
    for (std::int64_t h = 0; h < unit.kv_head_count * group; ++h) {
      const std::int64_t head = unit.batch * heads + unit.kv_head_begin * group + h;
      std::memcpy(to.data() + h * count * row_bytes,
                  whole.data() + (head * rows + begin) * row_bytes, count * row_bytes);
    }
  }

  testing::Faults faults_;
  std::unique_ptr<Device> device_;
  Admission admission_{64 << 20, 4};
  SlabPool host_pool_{device_->backend(), MemoryKind::kHost, 64 << 20};
  Ingest ingest_;
  JobResources resources_{admission_, host_pool_, ingest_, {.unit_bytes = kUnitBytes}};
};

INSTANTIATE_TEST_SUITE_P(Devices, ResidentTensorTest,
                         ::testing::Values(DeviceMemory::kUnified, DeviceMemory::kDiscrete),
                         [](const auto& instance) {
                           return instance.param == DeviceMemory::kUnified ? "Unified" : "Discrete";
                         });

// Whatever stays and whatever travels, the bits are the same. Units are cut differently where k
// and v stay, so answers are held against each other through a resident output.
TEST_P(ResidentTensorTest, AnyOperandMayBeResident) {
  const std::uint64_t seed = std::random_device()();
  for (const Precision precision : {Precision::kQkInt8PvFp16, Precision::kFp16}) {
    const AttentionProblem problem = Problem(Layout::kHnd, precision);
    SCOPED_TRACE(testing::Describe(problem, seed));
    const testing::ProblemData data = testing::MakeData(problem, testing::DataKind::kNormal, seed);
    const auto q = Put(TensorRole::kQ, problem, data.q);
    const auto k = Put(TensorRole::kK, problem, data.k);
    const auto v = Put(TensorRole::kV, problem, data.v);
    std::vector<std::byte> want;
    for (int which = 0; which < 8; ++which) {
      const auto out = Put(TensorRole::kOutput, problem);
      const ResidentOperands resident = {.q = (which & 1) != 0 ? q : nullptr,
                                         .k = (which & 2) != 0 ? k : nullptr,
                                         .v = (which & 4) != 0 ? v : nullptr,
                                         .mask = nullptr,
                                         .output = out};
      const Answer answer = Attend(problem, data, resident);
      ASSERT_TRUE(answer.status.ok()) << answer.status << " case " << which;
      EXPECT_EQ(answer.payload_bytes, ((which & 1) != 0 ? 0 : data.q.size()) +
                                          ((which & 2) != 0 ? 0 : data.k.size()) +
                                          ((which & 4) != 0 ? 0 : data.v.size()));
      const std::vector<std::byte> got(out->data(), out->data() + out->spec().bytes());
      if (which == 0) {
        want = got;
        testing::PoisonedOutput output(problem);
        output.out = got;
        const auto reference = testing::Reference(problem, data);
        EXPECT_LE(testing::Compare(problem, output, reference).out.relative_l2,
                  testing::RelativeL2Limit(precision, problem.dtype));
      }
      EXPECT_EQ(got, want) << "case " << which;
      EXPECT_EQ(out->generation(), 1u);
    }
  }
}

TEST_P(ResidentTensorTest, BothLayoutsAreRead) {
  const std::uint64_t seed = std::random_device()();
  const AttentionProblem problem = Problem(Layout::kNhd, Precision::kQkInt8PvFp16);
  SCOPED_TRACE(testing::Describe(problem, seed));
  const testing::ProblemData data = testing::MakeData(problem, testing::DataKind::kNormal, seed);
  const auto out = Put(TensorRole::kOutput, problem);
  const Answer answer = Attend(problem, data,
                               {.q = Put(TensorRole::kQ, problem, data.q),
                                .k = Put(TensorRole::kK, problem, data.k),
                                .v = Put(TensorRole::kV, problem, data.v),
                                .mask = nullptr,
                                .output = out});
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  testing::PoisonedOutput output(problem);
  output.out.assign(out->data(), out->data() + out->spec().bytes());
  EXPECT_LE(testing::Compare(problem, output, testing::Reference(problem, data)).out.relative_l2,
            testing::RelativeL2Limit(problem.precision, problem.dtype));
}

TEST_P(ResidentTensorTest, KeysAreKeptPreparedForOneLivingV) {
  const AttentionProblem problem = Problem(Layout::kHnd, Precision::kQkInt8PvFp16);
  const auto k = Put(TensorRole::kK, problem);
  auto v = Put(TensorRole::kV, problem);
  const auto other_v = Put(TensorRole::kV, problem);
  KvTask task;
  task.num_heads = KvHeadsPerUnit(problem.num_heads_kv, k->spec().head_bytes(), kUnitBytes);
  task.length_k = problem.seqlen_k;
  task.precision = Precision::kQkInt8PvFp16;
  const auto group = k->KeptKv(v, task, 0, 0);
  ASSERT_NE(group, nullptr);
  EXPECT_EQ(k->KeptKv(v, task, 0, 0), group);
  EXPECT_NE(k->KeptKv(v, task, 1, 0), group);
  EXPECT_EQ(k->KeptKv(other_v, task, 0, 0), nullptr);
  EXPECT_EQ(k->KeptKv(v, task, 0, 100), nullptr);  // not where its groups begin
  task.precision = Precision::kFp16;
  EXPECT_EQ(k->KeptKv(v, task, 0, 0), nullptr);  // not listed
  task.precision = Precision::kQkInt8PvFp16;
  task.length_k = 100;
  EXPECT_EQ(k->KeptKv(v, task, 0, 0), nullptr);  // only some of the keys
  task.length_k = problem.seqlen_k;
  v.reset();
  const auto second = k->KeptKv(other_v, task, 0, 0);
  EXPECT_NE(second, nullptr);
  EXPECT_NE(second, group);
}

TEST_P(ResidentTensorTest, KeptKeysArePreparedOnce) {
  const std::uint64_t seed = std::random_device()();
  const AttentionProblem problem = Problem(Layout::kHnd, Precision::kQkInt8PvFp16);
  SCOPED_TRACE(testing::Describe(problem, seed));
  const testing::ProblemData data = testing::MakeData(problem, testing::DataKind::kNormal, seed);
  const ResidentOperands resident = {.q = nullptr,
                                     .k = Put(TensorRole::kK, problem, data.k),
                                     .v = Put(TensorRole::kV, problem, data.v),
                                     .mask = nullptr,
                                     .output = nullptr};
  // A failure to prepare is not kept.
  faults_.prepares = 1;
  EXPECT_EQ(Attend(problem, data, resident).status.code(), absl::StatusCode::kInternal);
  const Answer first = Attend(problem, data, resident);
  ASSERT_TRUE(first.status.ok()) << first.status;
  // Nor is there anything left to prepare, so that nothing can fail.
  faults_.prepares = 1000;
  const Answer second = Attend(problem, data, resident);
  EXPECT_TRUE(second.status.ok()) << second.status;
  EXPECT_EQ(first, second);
  EXPECT_EQ(faults_.prepares, 1000);
  faults_.prepares = 0;
}

TEST_P(ResidentTensorTest, AnOutputsRegionIsWrittenByOneOrReadByMany) {
  const AttentionProblem problem = Problem(Layout::kHnd, Precision::kQkInt8PvFp16);
  const testing::ProblemData data = testing::MakeData(problem, testing::DataKind::kNormal, 1);
  const auto out = Put(TensorRole::kOutput, problem);
  {
    const auto first = ResidentTensor::TryRead(out);
    const auto second = ResidentTensor::TryRead(out);
    EXPECT_TRUE(first.has_value() && second.has_value());
    EXPECT_FALSE(ResidentTensor::TryWrite(out, {0, 2, 0, 6}).has_value());
    const Answer refused = Attend(problem, data, {nullptr, nullptr, nullptr, nullptr, out});
    EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(refused.status.message()), HasSubstr("header.output.handle"));
  }
  EXPECT_EQ(out->generation(), 0u);
  {
    const auto writer = ResidentTensor::TryWrite(out, {0, 2, 2, 2});
    EXPECT_TRUE(writer.has_value());
    for (const TensorRegion& overlap :
         {TensorRegion{0, 2, 0, 6}, TensorRegion{1, 1, 3, 3}, TensorRegion{0, 1, 0, 3}}) {
      EXPECT_FALSE(ResidentTensor::TryWrite(out, overlap).has_value());
    }
    EXPECT_FALSE(ResidentTensor::TryRead(out).has_value());
    const auto beside = ResidentTensor::TryWrite(out, {0, 2, 4, 2});
    EXPECT_TRUE(beside.has_value());
    EXPECT_TRUE(ResidentTensor::TryWrite(out, {0, 2, 0, 2}).has_value());
  }
  EXPECT_EQ(out->generation(), 3u);
  EXPECT_TRUE(ResidentTensor::TryRead(out).has_value());
}

}  // namespace
}  // namespace sage::server
