#include "client/merge.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_attention.h"
#include "tests/support/problem_generator.h"

namespace sage {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Answer {
  std::vector<float> out;
  std::vector<float> lse;
};

Answer Empty(const AttentionProblem& problem) {
  return {std::vector<float>(problem.q_elements(), 0.0f),
          std::vector<float>(problem.lse_elements(), -kInf)};
}

// The oracle's answer in fp32 and in the problem's layout.
Answer AnswerOf(const AttentionProblem& problem, const ReferenceInputs& inputs) {
  const ReferenceResult reference = ReferenceAttention(problem, inputs);
  Answer answer = Empty(problem);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t h = 0; h < problem.num_heads_q; ++h) {
      for (std::int64_t row = 0; row < problem.seqlen_q; ++row) {
        const std::int64_t i = (b * problem.num_heads_q + h) * problem.seqlen_q + row;
        const std::int64_t o = problem.layout == Layout::kHnd
                                   ? i
                                   : (b * problem.seqlen_q + row) * problem.num_heads_q + h;
        answer.lse[i] = static_cast<float>(reference.lse[i]);
        for (std::int64_t d = 0; d < problem.head_dim; ++d) {
          answer.out[o * problem.head_dim + d] =
              static_cast<float>(reference.out[i * problem.head_dim + d]);
        }
      }
    }
  }
  return answer;
}

// Each merge rounds to fp32 a few times.
constexpr float kTolerance = 4e-6f;

// Blocks of 64 keys are dealt out between `parts` masks; the merged partial answers must be the
// answer under all of them.
void ExpectMergeGivesTheWhole(const AttentionProblem& problem, int parts, std::uint64_t seed) {
  SCOPED_TRACE(testing::Describe(problem, seed));
  const testing::ProblemData data = testing::MakeData(problem, testing::DataKind::kNormal, seed);
  std::vector<std::uint8_t> mask = testing::RandomDenseMask(problem, 1, 1, 0.7, seed);
  testing::ClearMaskRows(problem, 3, &mask);
  ReferenceInputs inputs{data.q.data(), data.k.data(), data.v.data(), mask.data(), 1, 1};
  const Answer want = AnswerOf(problem, inputs);

  Answer merged = Empty(problem);
  for (int part = 0; part < parts; ++part) {
    std::vector<std::uint8_t> own = mask;
    for (std::size_t i = 0; i < own.size(); ++i) {
      if (static_cast<int>(i % problem.blocks_k()) % parts != part) own[i] = 0;
    }
    inputs.mask = own.data();
    const Answer partial = AnswerOf(problem, inputs);
    MergePartial(problem, partial.out.data(), partial.lse.data(), merged.out.data(),
                 merged.lse.data());
  }
  for (std::size_t i = 0; i < want.lse.size(); ++i) {
    if (want.lse[i] == -kInf) {
      EXPECT_EQ(merged.lse[i], -kInf);
    } else {
      EXPECT_NEAR(merged.lse[i], want.lse[i], kTolerance * (1 + std::abs(want.lse[i])));
    }
  }
  for (std::size_t i = 0; i < want.out.size(); ++i) {
    EXPECT_NEAR(merged.out[i], want.out[i], kTolerance);
  }
}

TEST(MergeTest, GivesTheWholeOverSplitKeys) {
  std::uint64_t seed = 1;
  for (const Layout layout : {Layout::kHnd, Layout::kNhd}) {
    for (const bool causal : {false, true}) {
      for (const std::int64_t seqlen : {1, 63, 129, 400}) {
        AttentionProblem problem;
        problem.batch = 2;
        problem.num_heads_q = 4;
        problem.num_heads_kv = 2;
        problem.seqlen_q = seqlen;
        problem.seqlen_k = 500;
        problem.head_dim = 16;
        problem.layout = layout;
        problem.is_causal = causal;
        ExpectMergeGivesTheWhole(problem, 3, seed++);
      }
    }
  }
}

AttentionProblem OneRow() {
  AttentionProblem problem;
  problem.batch = problem.num_heads_q = problem.num_heads_kv = 1;
  problem.seqlen_q = 1;
  problem.seqlen_k = 1;
  problem.head_dim = 8;
  return problem;
}

TEST(MergeTest, TakesTheBitsOfTheOnlySideThatSeesAKey) {
  const AttentionProblem problem = OneRow();
  const std::vector<float> seen(8, 0.1f);
  const std::vector<float> zero(8, 0.0f);
  const float lse = 1.7f;
  const float none = -kInf;

  Answer merged = {zero, {none}};
  MergePartial(problem, seen.data(), &lse, merged.out.data(), merged.lse.data());
  EXPECT_EQ(merged.out, seen);
  EXPECT_EQ(merged.lse[0], lse);
  MergePartial(problem, zero.data(), &none, merged.out.data(), merged.lse.data());
  EXPECT_EQ(merged.out, seen);
  EXPECT_EQ(merged.lse[0], lse);

  Answer neither = {zero, {none}};
  MergePartial(problem, zero.data(), &none, neither.out.data(), neither.lse.data());
  EXPECT_EQ(neither.out, zero);
  EXPECT_EQ(neither.lse[0], -kInf);
}

TEST(MergeTest, HandlesScoresFarApart) {
  const AttentionProblem problem = OneRow();
  const std::vector<float> part(8, 3.0f);
  const float part_lse = 2000.0f;
  Answer merged = {std::vector<float>(8, 1.0f), {-2000.0f}};
  MergePartial(problem, part.data(), &part_lse, merged.out.data(), merged.lse.data());
  EXPECT_EQ(merged.out, part);
  EXPECT_EQ(merged.lse[0], part_lse);
}

}  // namespace
}  // namespace sage
