// The CPU backend against the float64 oracle, over shapes, layouts, precisions and masks.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "kernels/block_mask.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/support/device_problem.h"
#include "tests/support/problem_generator.h"
#include "tests/support/tries.h"
#include "tests/unit/cpu_each_target.h"

namespace sage {
namespace {

using testing::ClearMaskRows;
using testing::Compare;
using testing::Comparison;
using testing::DataKind;
using testing::Describe;
using testing::EmptyRowsAreExact;
using testing::LseLimit;
using testing::MakeData;
using testing::PoisonedOutput;
using testing::ProblemData;
using testing::RandomDenseMask;
using testing::Reference;
using testing::RelativeL2Limit;
using testing::RunProblem;
using testing::Tries;

template <typename T, std::size_t kSize>
T Pick(const T (&values)[kSize], std::mt19937_64& random) {
  return values[random() % kSize];
}

constexpr Precision kPrecisions[] = {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8,
                                     Precision::kFp16};
constexpr DType kHalfTypes[] = {DType::kFloat16, DType::kBFloat16};

// The limits hold for tensors; the norm of a row or two of few channels, each a mean of many values
// around 0, is by chance a good deal smaller than its expectation, which the error is in proportion
// to.
constexpr double kFewElementsFactor = 3;

// Every dimension and option drawn from the values where kernels go wrong.
AttentionProblem RandomProblem(std::mt19937_64& random) {
  constexpr std::int64_t kLengths[] = {1, 63, 64, 65, 127, 128, 129, 1000};
  constexpr std::int64_t kHeadDims[] = {8, 64, 72, 128};
  constexpr std::int64_t kGroups[] = {1, 4, 8};
  constexpr DType kOutputs[] = {DType::kFloat16, DType::kBFloat16, DType::kFloat32};
  AttentionProblem problem;
  problem.seqlen_q = Pick(kLengths, random);
  problem.seqlen_k = Pick(kLengths, random);
  problem.head_dim = Pick(kHeadDims, random);
  const bool large = problem.seqlen_q * problem.seqlen_k > 200 * 200;  // the oracle takes its time
  problem.batch = large ? 1 : 1 + random() % 2;
  problem.num_heads_kv = large ? 1 : 1 + random() % 2;
  problem.num_heads_q = problem.num_heads_kv * Pick(kGroups, random) / (large ? 4 : 1);
  problem.num_heads_q = std::max(problem.num_heads_q, problem.num_heads_kv);
  problem.dtype = Pick(kHalfTypes, random);
  problem.output_dtype = Pick(kOutputs, random);
  problem.layout = random() % 2 == 0 ? Layout::kHnd : Layout::kNhd;
  problem.precision = Pick(kPrecisions, random);
  problem.is_causal = random() % 2 == 0;
  problem.return_lse = random() % 2 == 0;
  for (std::int64_t b = 0; random() % 3 == 0 && b < problem.batch; ++b) {
    problem.seqlens_q.push_back(random() % (problem.seqlen_q + 1));
  }
  problem.seqlens_q.resize(problem.seqlens_q.empty() ? 0 : problem.batch, problem.seqlen_q);
  for (std::int64_t b = 0; random() % 3 == 0 && b < problem.batch; ++b) {
    problem.seqlens_k.push_back(random() % (problem.seqlen_k + 1));
  }
  problem.seqlens_k.resize(problem.seqlens_k.empty() ? 0 : problem.batch, problem.seqlen_k);
  return problem;
}

class CpuAttentionTest : public ::testing::Test {
 protected:
  void CheckRandomProblem(std::uint64_t seed) const {
    std::mt19937_64 random(seed);
    const AttentionProblem problem = RandomProblem(random);
    SCOPED_TRACE(Describe(problem, seed));
    ASSERT_TRUE(ValidateProblem(problem).ok());
    const ProblemData data = MakeData(problem, DataKind::kNormal, seed);
    std::vector<std::uint8_t> dense;
    BlockMask mask;
    std::int64_t mask_batch = 1;
    std::int64_t mask_heads = 1;
    if (random() % 2 == 0) {
      mask_batch = random() % 2 == 0 ? problem.batch : 1;
      mask_heads = random() % 2 == 0 ? problem.num_heads_q : 1;
      dense = RandomDenseMask(problem, mask_batch, mask_heads, 0.5, seed);
      if (random() % 2 == 0) ClearMaskRows(problem, 3, &dense);
      mask = *BlockMask::FromDense(problem, mask_batch, mask_heads, dense);
    }
    const PoisonedOutput output = RunProblem(*backend_, problem, data, mask);
    const ReferenceResult reference = Reference(problem, data, dense, mask_batch, mask_heads);
    const Comparison comparison = Compare(problem, output, reference);
    const double factor = problem.q_elements() < 1000 ? kFewElementsFactor : 1;
    EXPECT_LE(comparison.out.relative_l2,
              factor * RelativeL2Limit(problem.precision, problem.dtype));
    EXPECT_LE(comparison.lse_error, LseLimit(problem.precision));
    EXPECT_TRUE(EmptyRowsAreExact(problem, output, reference));
  }

  const std::unique_ptr<Backend> backend_ = *CreateCpuBackend({.num_threads = 2});
};

TEST_F(CpuAttentionTest, MatchesTheOracleOverRandomProblems) {
  for (std::uint64_t seed = 0; seed < Tries(300); ++seed) CheckRandomProblem(seed);
}

TEST_F(CpuAttentionTest, MatchesTheOracleWithEveryInstructionSet) {
  ForEachCpuTarget([&] {
    for (std::uint64_t seed = 1000; seed < 1000 + Tries(30); ++seed) CheckRandomProblem(seed);
  });
}

}  // namespace
}  // namespace sage
