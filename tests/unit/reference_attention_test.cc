#include "kernels/reference/reference_attention.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/float16.h"
#include "tests/support/problem_generator.h"

namespace sage {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Sums of a few hundred float64 terms near 1.
constexpr double kFloat64Error = 1e-12;

AttentionProblem Problem(std::int64_t seqlen_q, std::int64_t seqlen_k, std::int64_t head_dim = 8) {
  AttentionProblem problem;
  problem.batch = 1;
  problem.num_heads_q = 1;
  problem.num_heads_kv = 1;
  problem.seqlen_q = seqlen_q;
  problem.seqlen_k = seqlen_k;
  problem.head_dim = head_dim;
  return problem;
}

std::vector<Float16> Halves(const std::vector<float>& values) {
  std::vector<Float16> halves;
  for (const float value : values) halves.push_back(ToFloat16(value));
  return halves;
}

// A tensor of tokens whose first two channels are given, the others 0.
std::vector<Float16> Tokens(const std::vector<std::pair<float, float>>& tokens) {
  std::vector<float> values;
  for (const auto& [x, y] : tokens) values.insert(values.end(), {x, y, 0, 0, 0, 0, 0, 0});
  return Halves(values);
}

TEST(ReferenceAttention, MatchesAHandComputedCase) {
  AttentionProblem problem = Problem(1, 2);
  problem.softmax_scale = 0.5F;
  const auto q = Tokens({{2, 0}});
  const auto k = Tokens({{1, 5}, {3, -5}});
  const auto v = Tokens({{1, 0}, {0, 4}});
  const ReferenceRow row = ReferenceAttentionRow(problem, {q.data(), k.data(), v.data()}, 0, 0, 0);
  // Scores 1 and 3.
  const double sum = std::exp(1.0) + std::exp(3.0);
  EXPECT_NEAR(row.out[0], std::exp(1.0) / sum, kFloat64Error);
  EXPECT_NEAR(row.out[1], 4 * std::exp(3.0) / sum, kFloat64Error);
  EXPECT_EQ(row.out[2], 0);
  EXPECT_NEAR(row.lse, std::log(sum), kFloat64Error);
}

TEST(ReferenceAttention, ScaleDefaultsToTheInverseRootOfHeadDim) {
  AttentionProblem problem = Problem(1, 1, 64);
  std::vector<float> ones(64, 1.0F);
  const auto q = Halves(ones);
  const ReferenceRow row = ReferenceAttentionRow(problem, {q.data(), q.data(), q.data()}, 0, 0, 0);
  EXPECT_NEAR(row.lse, 8.0, kFloat64Error);
}

TEST(ReferenceAttention, CausalIsAlignedToTheBottomRightCorner) {
  // Equal scores: row i averages the values 0, 1, 2, ... of the keys that it sees.
  for (const auto& [seqlen_q, seqlen_k] :
       std::vector<std::pair<std::int64_t, std::int64_t>>{{5, 5}, {3, 7}, {7, 3}, {1, 130}}) {
    AttentionProblem problem = Problem(seqlen_q, seqlen_k);
    problem.is_causal = true;
    const auto zeros =
        Tokens(std::vector<std::pair<float, float>>(std::max(seqlen_q, seqlen_k), {0.0F, 0.0F}));
    std::vector<std::pair<float, float>> ramp;
    for (std::int64_t j = 0; j < seqlen_k; ++j) ramp.emplace_back(static_cast<float>(j), 1.0F);
    const auto v = Tokens(ramp);
    const ReferenceResult got = ReferenceAttention(problem, {zeros.data(), zeros.data(), v.data()});
    for (std::int64_t i = 0; i < seqlen_q; ++i) {
      const auto seen = static_cast<double>(std::max<std::int64_t>(i + 1 + seqlen_k - seqlen_q, 0));
      EXPECT_NEAR(got.out[i * 8], seen == 0 ? 0 : (seen - 1) / 2, kFloat64Error) << i;
      EXPECT_NEAR(got.out[i * 8 + 1], seen == 0 ? 0 : 1, kFloat64Error) << i;
      if (seen == 0) {
        EXPECT_EQ(got.lse[i], -kInfinity);
      } else {
        EXPECT_NEAR(got.lse[i], std::log(seen), kFloat64Error);
      }
    }
  }
}

TEST(ReferenceAttention, MaskIsIndexedByBatchQueryHeadTileAndBlock) {
  AttentionProblem problem = Problem(129, 130);
  problem.batch = 2;
  problem.num_heads_q = 4;
  problem.num_heads_kv = 2;
  const std::int64_t tiles = problem.tiles_q();
  const std::int64_t blocks = problem.blocks_k();
  const auto data = testing::MakeData(problem, testing::DataKind::kNormal, 1);
  // Each (batch, head, tile) lists one block of its own choice.
  std::vector<std::uint8_t> mask(2 * 4 * tiles * blocks, 0);
  const auto choice = [&](std::int64_t b, std::int64_t h, std::int64_t m) {
    return (b + 2 * h + m) % blocks;
  };
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t h = 0; h < 4; ++h) {
      for (std::int64_t m = 0; m < tiles; ++m) {
        mask[((b * 4 + h) * tiles + m) * blocks + choice(b, h, m)] = 1;
      }
    }
  }
  const ReferenceResult got = testing::Reference(problem, data, mask, 2, 4);
  // With v replaced by ones in the chosen block and NaN elsewhere, only the right block is read.
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t h = 0; h < 4; ++h) {
      for (const std::int64_t row : {0, 127, 128}) {
        auto spoiled = data;
        auto* v = reinterpret_cast<Float16*>(spoiled.v.data());
        for (std::int64_t i = 0; i < problem.kv_elements(); ++i) {
          const std::int64_t key = i / problem.head_dim % problem.seqlen_k;
          const std::int64_t head = i / problem.head_dim / problem.seqlen_k;
          if (head != b * 2 + h / 2 || key / kBlockN != choice(b, h, row / kBlockM)) {
            v[i] = ToFloat16(NAN);
          }
        }
        const ReferenceRow one = ReferenceAttentionRow(
            problem, {spoiled.q.data(), spoiled.k.data(), spoiled.v.data(), mask.data(), 2, 4}, b,
            h, row);
        const std::int64_t index = (b * 4 + h) * problem.seqlen_q + row;
        for (std::int64_t d = 0; d < problem.head_dim; ++d) {
          ASSERT_EQ(one.out[d], got.out[index * problem.head_dim + d]);
        }
        ASSERT_EQ(one.lse, got.lse[index]);
      }
    }
  }
}

TEST(ReferenceAttention, BroadcastMasksEqualRepeatedOnes) {
  AttentionProblem problem = Problem(130, 200);
  problem.batch = 2;
  problem.num_heads_q = 2;
  const auto data = testing::MakeData(problem, testing::DataKind::kNormal, 2);
  const auto one = testing::RandomDenseMask(problem, 1, 1, 0.5, 3);
  std::vector<std::uint8_t> repeated;
  for (int i = 0; i < 4; ++i) repeated.insert(repeated.end(), one.begin(), one.end());
  const ReferenceResult a = testing::Reference(problem, data, one, 1, 1);
  const ReferenceResult b = testing::Reference(problem, data, repeated, 2, 2);
  EXPECT_EQ(a.out, b.out);
  EXPECT_EQ(a.lse, b.lse);
}

TEST(ReferenceAttention, LayoutsHoldTheSameNumbers) {
  AttentionProblem hnd = Problem(3, 5);
  hnd.batch = 2;
  hnd.num_heads_q = 4;
  hnd.num_heads_kv = 2;
  AttentionProblem nhd = hnd;
  nhd.layout = Layout::kNhd;
  const auto a = testing::MakeData(hnd, testing::DataKind::kKeyOffset, 9);
  const auto b = testing::MakeData(nhd, testing::DataKind::kKeyOffset, 9);
  EXPECT_NE(a.q, b.q);  // the generator draws by (batch, head, token), then places
  EXPECT_EQ(testing::Reference(hnd, a).out, testing::Reference(nhd, b).out);
}

TEST(ReferenceAttention, DecodesBothHalfFormats) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    AttentionProblem problem = Problem(1, 1);
    problem.dtype = dtype;
    const std::vector<float> values = {1.5F, -2, 0x1p-14F, 0, 96, -0.125F, 0x1p-24F, 1.0078125F};
    std::vector<std::uint16_t> bits;
    for (const float value : values) {
      bits.push_back(dtype == DType::kFloat16 ? ToFloat16(value).bits : ToBFloat16(value).bits);
    }
    const ReferenceRow row =
        ReferenceAttentionRow(problem, {bits.data(), bits.data(), bits.data()}, 0, 0, 0);
    for (std::size_t d = 0; d < values.size(); ++d) EXPECT_EQ(row.out[d], values[d]);
  }
}

TEST(ReferenceAttention, PartialResultsMergeByLse) {
  AttentionProblem whole = Problem(9, 192, 64);
  const auto data = testing::MakeData(whole, testing::DataKind::kNormal, 4);
  const ReferenceResult want = testing::Reference(whole, data);
  const ReferenceResult a = testing::Reference(whole, data, {1, 0, 1}, 1, 1);
  const ReferenceResult b = testing::Reference(whole, data, {0, 1, 0}, 1, 1);
  for (std::int64_t row = 0; row < 9; ++row) {
    const double lse = std::log(std::exp(a.lse[row]) + std::exp(b.lse[row]));
    EXPECT_NEAR(lse, want.lse[row], kFloat64Error);
    for (std::int64_t i = row * 64; i < (row + 1) * 64; ++i) {
      EXPECT_NEAR(std::exp(a.lse[row] - lse) * a.out[i] + std::exp(b.lse[row] - lse) * b.out[i],
                  want.out[i], kFloat64Error);
    }
  }
}

TEST(ReferenceAttention, RowsWithoutAVisibleKeyAreZero) {
  AttentionProblem problem = Problem(200, 70);
  problem.batch = 2;
  problem.seqlens_q = {200, 150};
  problem.seqlens_k = {0, 70};
  const auto data = testing::MakeData(problem, testing::DataKind::kNormal, 5);
  const ReferenceResult got = testing::Reference(problem, data, {1, 1, 0, 0}, 1, 1);
  for (std::int64_t row = 0; row < 400; ++row) {
    // Entry 0 has no keys; entry 1 lists blocks for its first tile only.
    const bool empty = row < 200 || row >= 200 + 128;
    EXPECT_EQ(got.lse[row] == -kInfinity, empty) << row;
    for (std::int64_t d = 0; d < 8; ++d) EXPECT_EQ(got.out[row * 8 + d] == 0, empty) << row;
  }
}

TEST(ReferenceAttention, KeysPastTheLengthDoNotExist) {
  AttentionProblem shorter = Problem(4, 100, 16);
  AttentionProblem padded = Problem(4, 130, 16);
  padded.seqlens_k = {100};
  shorter.is_causal = padded.is_causal = true;
  auto data = testing::MakeData(padded, testing::DataKind::kNormal, 6);
  const ReferenceResult want = testing::Reference(shorter, data);
  for (std::size_t i = 100 * 16 * 2; i < data.k.size(); ++i) {
    data.k[i] = data.v[i] = std::byte{0xff};  // NaN
  }
  const ReferenceResult got = testing::Reference(padded, data);
  EXPECT_EQ(got.out, want.out);
  EXPECT_EQ(got.lse, want.lse);
}

TEST(ReferenceAttention, NonFiniteValuesStayInTheRowsThatSeeThem) {
  AttentionProblem problem = Problem(256, 128);
  problem.is_causal = true;  // row i sees keys j <= i - 128
  auto data = testing::MakeData(problem, testing::DataKind::kNormal, 7);
  const Float16 bad[] = {ToFloat16(NAN), ToFloat16(INFINITY), ToFloat16(-INFINITY)};
  for (const Float16 value : bad) {
    auto spoiled = data;
    reinterpret_cast<Float16*>(spoiled.v.data())[100 * 8] = value;
    reinterpret_cast<Float16*>(spoiled.q.data())[200 * 8] = value;
    const ReferenceResult got = testing::Reference(problem, spoiled);
    const ReferenceResult want = testing::Reference(problem, data);
    for (std::int64_t row = 0; row < 256; ++row) {
      if (row == 200) {
        EXPECT_FALSE(std::isfinite(got.out[row * 8]));
      } else if (row >= 228) {
        EXPECT_FALSE(std::isfinite(got.out[row * 8]));
        EXPECT_EQ(got.out[row * 8 + 1], want.out[row * 8 + 1]);
      } else {
        for (std::int64_t d = 0; d < 8; ++d) {
          ASSERT_EQ(got.out[row * 8 + d], want.out[row * 8 + d]) << row;
        }
      }
    }
  }
}

TEST(Similarity, OfEqualValuesIsPerfect) {
  SimilarityAccumulator accumulator;
  for (const double x : {1.0, -2.0, 0.0}) accumulator.Add(x, x);
  EXPECT_NEAR(accumulator.Result().cosine, 1, kFloat64Error);
  EXPECT_EQ(accumulator.Result().relative_l1, 0);
  EXPECT_EQ(accumulator.Result().relative_l2, 0);
}

TEST(Similarity, MatchesAHandComputedCase) {
  SimilarityAccumulator accumulator;
  accumulator.Add(3, 4);
  accumulator.Add(4, 3);
  EXPECT_NEAR(accumulator.Result().cosine, 24.0 / 25, kFloat64Error);
  EXPECT_NEAR(accumulator.Result().relative_l1, 2.0 / 7, kFloat64Error);
  EXPECT_NEAR(accumulator.Result().relative_l2, std::sqrt(2.0) / 5, kFloat64Error);
}

TEST(Similarity, OfZerosIsPerfectAndOfZeroWithSomethingIsNot) {
  SimilarityAccumulator zeros;
  zeros.Add(0, 0);
  EXPECT_EQ(zeros.Result().cosine, 1);
  EXPECT_EQ(zeros.Result().relative_l2, 0);
  SimilarityAccumulator wrong;
  wrong.Add(1, 0);
  EXPECT_EQ(wrong.Result().cosine, 0);
  EXPECT_EQ(wrong.Result().relative_l1, kInfinity);
  EXPECT_EQ(wrong.Result().relative_l2, kInfinity);
}

TEST(Similarity, ANonFiniteAnswerSpoilsEveryFigure) {
  for (const double bad : {kInfinity, -kInfinity, std::nan("")}) {
    for (const double want : {0.0, 1.0}) {
      SimilarityAccumulator accumulator;
      accumulator.Add(bad, want);
      EXPECT_TRUE(std::isnan(accumulator.Result().cosine));
      EXPECT_TRUE(std::isnan(accumulator.Result().relative_l1));
      EXPECT_TRUE(std::isnan(accumulator.Result().relative_l2));
    }
  }
}

TEST(Similarity, LeavesOutElementsThatHaveNoFiniteReference) {
  SimilarityAccumulator accumulator;
  accumulator.Add(1, 1);
  accumulator.Add(5, std::nan(""));
  accumulator.Add(std::nan(""), kInfinity);
  EXPECT_EQ(accumulator.Result().cosine, 1);
  EXPECT_EQ(accumulator.Result().relative_l2, 0);
}

}  // namespace
}  // namespace sage
