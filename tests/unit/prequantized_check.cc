#include "tests/unit/prequantized_check.h"

#include <cstddef>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "kernels/block_mask.h"
#include "kernels/float16.h"
#include "tests/support/device_problem.h"
#include "tests/support/problem_generator.h"

namespace sage::testing {
namespace {

using ::testing::HasSubstr;

template <typename T, std::size_t kSize>
T Pick(const T (&values)[kSize], std::mt19937_64& random) {
  return values[random() % kSize];
}

AttentionProblem RandomProblem(Precision precision, std::mt19937_64& random) {
  constexpr std::int64_t kLengths[] = {1, 63, 64, 65, 127, 128, 129, 300};
  constexpr std::int64_t kHeadDims[] = {8, 24, 64, 72, 128};
  constexpr std::int64_t kGroups[] = {1, 3};
  AttentionProblem problem;
  problem.batch = 2;
  problem.num_heads_kv = 2;
  problem.num_heads_q = problem.num_heads_kv * Pick(kGroups, random);
  problem.seqlen_q = Pick(kLengths, random);
  problem.seqlen_k = Pick(kLengths, random);
  problem.head_dim = Pick(kHeadDims, random);
  problem.dtype = random() % 2 == 0 ? DType::kFloat16 : DType::kBFloat16;
  problem.output_dtype = DType::kFloat32;
  problem.layout = random() % 2 == 0 ? Layout::kHnd : Layout::kNhd;
  problem.precision = precision;
  problem.is_causal = random() % 2 == 0;
  problem.return_lse = true;
  if (random() % 2 == 0) {
    problem.seqlens_q = {static_cast<std::int64_t>(random() % (problem.seqlen_q + 1)),
                         problem.seqlen_q};
    problem.seqlens_k = {static_cast<std::int64_t>(random() % (problem.seqlen_k + 1)),
                         problem.seqlen_k};
  }
  return problem;
}

// Sets a 64-token piece of a tensor to zero, a tiny one to 1e-7, and single elements to what is not
// finite.
void Spoil(DType dtype, std::mt19937_64& random, std::vector<std::byte>* tensor) {
  const std::size_t elements = tensor->size() / 2;
  const auto set = [&](std::size_t i, float value) {
    const std::uint16_t bits =
        dtype == DType::kFloat16 ? ToFloat16(value).bits : ToBFloat16(value).bits;
    std::memcpy(tensor->data() + 2 * i, &bits, sizeof(bits));
  };
  for (std::size_t i = elements / 3; i < elements / 2; ++i) set(i, i % 2 == 0 ? 0.0F : 1e-7F);
  for (std::size_t i = elements / 2; i < elements * 2 / 3; ++i) set(i, 0.0F);
  set(random() % elements, std::numeric_limits<float>::quiet_NaN());
  set(random() % elements, -std::numeric_limits<float>::infinity());
}

bool SameBits(const PoisonedOutput& a, const PoisonedOutput& b) {
  return a.out == b.out &&
         std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * sizeof(float)) == 0;
}

}  // namespace

void CheckPrequantizedBits(Backend& backend, Precision precision, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const AttentionProblem problem = RandomProblem(precision, random);
  SCOPED_TRACE(Describe(problem, seed));
  ASSERT_TRUE(ValidateProblem(problem).ok());
  ProblemData data = MakeData(problem, DataKind::kKeyOffset, seed);
  if (random() % 2 == 0) Spoil(problem.dtype, random, &data.q);
  if (random() % 2 == 0) Spoil(problem.dtype, random, &data.k);
  const BlockMask mask = *BlockMask::FromDense(
      problem, 1, problem.num_heads_q, RandomDenseMask(problem, 1, problem.num_heads_q, 0.7, seed));
  const PoisonedOutput want = RunProblem(backend, problem, data, mask);
  for (const Prequantized prequantized :
       {Prequantized{.q = true, .k = false}, Prequantized{.q = false, .k = true},
        Prequantized{.q = true, .k = true}}) {
    for (const std::int64_t tiles : {0, 1}) {
      EXPECT_TRUE(SameBits(RunProblem(backend, problem, data, mask, tiles, prequantized), want))
          << (prequantized.q ? "int8 q " : "") << (prequantized.k ? "int8 k " : "") << tiles
          << " tiles a task";
    }
  }
}

void CheckPrequantizedRefusals(Backend& backend) {
  AttentionProblem problem;
  problem.batch = problem.num_heads_q = problem.num_heads_kv = 1;
  problem.seqlen_q = problem.seqlen_k = 64;
  problem.head_dim = 64;
  problem.return_lse = true;
  const std::unique_ptr<Stream> stream = *backend.CreateStream();
  const DeviceProblem device(backend, *stream, problem, MakeData(problem, DataKind::kNormal, 1), {},
                             {.q = true, .k = true});
  const std::vector<AttendTask> tasks = device.Tasks();
  const Memory workspace =
      *backend.Allocate(MemoryKind::kDevice, backend.AttendWorkspaceBytes(tasks));
  const auto expect_refused = [&](const auto& change, const char* message) {
    AttendTask task = tasks[0];
    change(task);
    const absl::Status status = stream->Attend({&task, 1}, workspace.data());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  expect_refused([](AttendTask& task) { task.kv.precision = Precision::kFp16; },
                 "int8 k with precision fp16");
  expect_refused(
      [](AttendTask& task) {
        task.kv.precision = Precision::kFp16;
        task.kv.k_scales.reset();
      },
      "int8 q with precision fp16");
  expect_refused([](AttendTask& task) { task.kv.k_scales->smoothing = nullptr; }, "int8 k");
  expect_refused([](AttendTask& task) { task.q_scales->scales = nullptr; }, "int8 q");
  expect_refused([](AttendTask& task) { task.q_scales->dot_smoothing = nullptr; },
                 "int8 q with lse");

  KvTask kv = tasks[0].kv;
  kv.k_scales->scales = nullptr;
  EXPECT_EQ(stream->PrepareKv(kv, nullptr).code(), absl::StatusCode::kInvalidArgument);
  kv.precision = Precision::kFp16;
  EXPECT_EQ(stream->PrepareKv(kv, nullptr).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(stream->Synchronize().ok());
}

}  // namespace sage::testing
