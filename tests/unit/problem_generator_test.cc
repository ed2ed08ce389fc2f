#include "tests/support/problem_generator.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"
#include "kernels/float16.h"

namespace sage::testing {
namespace {

AttentionProblem Problem() {
  AttentionProblem problem;
  problem.batch = 2;
  problem.num_heads_q = 4;
  problem.num_heads_kv = 2;
  problem.seqlen_q = 130;
  problem.seqlen_k = 200;
  problem.head_dim = 16;
  problem.output_dtype = DType::kFloat32;
  problem.return_lse = true;
  return problem;
}

// The oracle's own answer, rounded to fp32, in the problem's layout.
PoisonedOutput Answer(const AttentionProblem& problem, const ReferenceResult& reference) {
  PoisonedOutput output(problem);
  auto* out = reinterpret_cast<float*>(output.out.data());
  const std::int64_t heads = problem.num_heads_q;
  for (std::int64_t row = 0; row < problem.lse_elements(); ++row) {
    const std::int64_t s = row % problem.seqlen_q;
    const std::int64_t h = row / problem.seqlen_q % heads;
    const std::int64_t b = row / problem.seqlen_q / heads;
    const std::int64_t at =
        problem.layout == Layout::kHnd ? row : (b * problem.seqlen_q + s) * heads + h;
    for (std::int64_t d = 0; d < problem.head_dim; ++d) {
      out[at * problem.head_dim + d] =
          static_cast<float>(reference.out[row * problem.head_dim + d]);
    }
    output.lse[row] = static_cast<float>(reference.lse[row]);
  }
  return output;
}

class ComparisonTest : public ::testing::TestWithParam<Layout> {
 protected:
  ComparisonTest() {
    problem_.layout = GetParam();
    mask_ = RandomDenseMask(problem_, 1, 4, 0.7, 1);
    ClearMaskRows(problem_, 4, &mask_);
    reference_ = Reference(problem_, MakeData(problem_, DataKind::kNormal, 2), mask_, 1, 4);
  }
  AttentionProblem problem_ = Problem();
  std::vector<std::uint8_t> mask_;
  ReferenceResult reference_;
};

TEST_P(ComparisonTest, TheOraclesOwnAnswerPasses) {
  const PoisonedOutput output = Answer(problem_, reference_);
  const Comparison comparison = Compare(problem_, output, reference_);
  EXPECT_LT(comparison.out.relative_l2, 1e-7);  // rounding to fp32
  EXPECT_LT(comparison.lse_error, 1e-6);
  EXPECT_TRUE(EmptyRowsAreExact(problem_, output, reference_));
}

TEST_P(ComparisonTest, UnwrittenOutputShows) {
  const PoisonedOutput output(problem_);
  EXPECT_TRUE(std::isnan(Compare(problem_, output, reference_).out.relative_l2));
  EXPECT_TRUE(std::isnan(Compare(problem_, output, reference_).lse_error));
  EXPECT_FALSE(EmptyRowsAreExact(problem_, output, reference_));
}

TEST_P(ComparisonTest, OneUnwrittenLseShows) {
  PoisonedOutput output = Answer(problem_, reference_);
  std::int64_t row = 0;
  while (!std::isfinite(reference_.lse[row])) ++row;
  output.lse[row] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(Compare(problem_, output, reference_).lse_error));
}

TEST_P(ComparisonTest, AWrongLseOfAnEmptyRowShows) {
  PoisonedOutput output = Answer(problem_, reference_);
  ASSERT_EQ(reference_.lse[0], -std::numeric_limits<double>::infinity());
  output.lse[0] = std::numeric_limits<float>::infinity();
  EXPECT_FALSE(EmptyRowsAreExact(problem_, output, reference_));
}

INSTANTIATE_TEST_SUITE_P(Layouts, ComparisonTest, ::testing::Values(Layout::kHnd, Layout::kNhd),
                         [](const auto& test) { return std::string(Name(test.param)); });

TEST(MakeData, IsAFunctionOfItsSeed) {
  const ProblemData a = MakeData(Problem(), DataKind::kNormal, 1);
  const ProblemData b = MakeData(Problem(), DataKind::kNormal, 1);
  EXPECT_EQ(a.q, b.q);
  EXPECT_EQ(a.k, b.k);
  EXPECT_EQ(a.v, b.v);
  EXPECT_NE(a.q, MakeData(Problem(), DataKind::kNormal, 2).q);
}

double MeanSquare(const std::vector<std::byte>& tensor, std::int64_t channel_begin,
                  std::int64_t channel_end) {
  const auto* elements = reinterpret_cast<const Float16*>(tensor.data());
  double sum = 0;
  std::int64_t count = 0;
  for (std::size_t row = 0; row < tensor.size() / 2; row += 16) {
    for (std::int64_t d = channel_begin; d < channel_end; ++d, ++count) {
      sum += std::pow(ToFloat(elements[row + d]), 2);
    }
  }
  return sum / static_cast<double>(count);
}

TEST(MakeData, KindsHaveTheirVariances) {
  const ProblemData normal = MakeData(Problem(), DataKind::kNormal, 3);
  EXPECT_NEAR(MeanSquare(normal.q, 0, 16), 1, 0.1);
  EXPECT_NEAR(MeanSquare(normal.k, 0, 16), 1, 0.1);
  EXPECT_NEAR(MeanSquare(normal.v, 0, 16), 1, 0.1);
  const ProblemData outliers = MakeData(Problem(), DataKind::kOutliers, 3);
  EXPECT_NEAR(MeanSquare(outliers.q, 0, 2), 36, 4);
  EXPECT_NEAR(MeanSquare(outliers.q, 2, 16), 0.25, 0.03);
  EXPECT_NEAR(MeanSquare(outliers.k, 0, 2), 144, 15);
  EXPECT_NEAR(MeanSquare(outliers.k, 2, 16), 1, 0.1);
  // 64 offsets of variance 64: 65 give or take four deviations.
  EXPECT_NEAR(MeanSquare(MakeData(Problem(), DataKind::kKeyOffset, 3).k, 0, 16), 65, 46);
  EXPECT_NEAR(MeanSquare(MakeData(Problem(), DataKind::kValueOffset, 3).v, 0, 16), 65, 46);
}

TEST(RandomDenseMask, HasTheDensityAsked) {
  AttentionProblem problem = Problem();
  problem.seqlen_q = problem.seqlen_k = 8192;
  const auto mask = RandomDenseMask(problem, 1, 1, 0.25, 4);
  const auto listed = static_cast<double>(std::count(mask.begin(), mask.end(), 1));
  EXPECT_NEAR(listed / static_cast<double>(mask.size()), 0.25, 0.02);
}

}  // namespace
}  // namespace sage::testing
