// Accuracy beside the public systems: relative L2 against float64 for four kinds of data, N(0, 1),
// K with an offset per channel, V with one, and outlier channels.
//
// Shapes are those of the published rows, 2048 keys, 4 heads, half of the blocks at random, but for
// half of their queries, all queries being alike.
// Published figures are rounded: one is met by what is less than half of its last digit above it.
// (Rounding the output to fp16 is an error of 0.0002 by itself.)
#include <cstdint>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "kernels/block_mask.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/reference/reference_attention.h"
#include "tests/support/device_problem.h"
#include "tests/support/problem_generator.h"

namespace sage {
namespace {

using testing::DataKind;

struct Row {
  DataKind kind;
  std::int64_t head_dim;
  double int8_fp16;  // Sparse_SageAttention, INT8 + FP16
  double int8_fp8;   // SageAttention2 and SpargeAttn, INT8 + FP8
};
constexpr double kExact = .00025;  // FlashAttention-2 in fp16: .0002 or .0003 for every row
constexpr Row kRows[] = {
    {DataKind::kNormal, 64, .01275, .03755},       {DataKind::kNormal, 128, .01335, .03845},
    {DataKind::kKeyOffset, 64, .01265, .03785},    {DataKind::kKeyOffset, 128, .01305, .03835},
    {DataKind::kValueOffset, 64, .000235, .00305}, {DataKind::kValueOffset, 128, .000245, .00285},
    {DataKind::kOutliers, 64, .03655, .04505},     {DataKind::kOutliers, 128, .03165, .04245},
};

TEST(CpuAccuracyTest, NoRowIsWorseThanThePublicSystemOfItsPrecision) {
  const std::unique_ptr<Backend> backend = *CreateCpuBackend({});
  for (const Row& row : kRows) {
    AttentionProblem problem;
    problem.batch = 1;
    problem.num_heads_q = problem.num_heads_kv = 4;
    problem.seqlen_q = 1024;
    problem.seqlen_k = 2048;
    problem.head_dim = row.head_dim;
    const std::uint64_t seed = 11;
    const auto data = testing::MakeData(problem, row.kind, seed);
    const auto dense = testing::RandomDenseMask(problem, 1, 4, 0.5, seed);
    const BlockMask mask = *BlockMask::FromDense(problem, 1, 4, dense);
    const ReferenceResult reference = testing::Reference(problem, data, dense, 1, 4);
    const auto error = [&](Precision precision) {
      problem.precision = precision;
      return testing::Compare(problem, testing::RunProblem(*backend, problem, data, mask),
                              reference)
          .out.relative_l2;
    };
    SCOPED_TRACE(::testing::Message()
                 << "kind " << static_cast<int>(row.kind) << " head_dim " << row.head_dim);
    EXPECT_LT(error(Precision::kQkInt8PvFp16), row.int8_fp16);
    EXPECT_LT(error(Precision::kQkInt8PvFp8), row.int8_fp8);
    EXPECT_LT(error(Precision::kFp16), kExact);
  }
}

}  // namespace
}  // namespace sage
