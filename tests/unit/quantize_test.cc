#include "kernels/quantize.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/float16.h"

namespace sage {
namespace {

constexpr std::int64_t kDim = 64;
constexpr std::int8_t kPoison = -128;  // a value that sage1 never produces

HeadView ViewOf(const std::vector<float>& data, std::int64_t rows, std::int64_t head_dim = kDim) {
  return {.data = data.data(),
          .dtype = DType::kFloat32,
          .rows = rows,
          .row_stride = head_dim,
          .head_dim = head_dim};
}

std::vector<float> Normal(std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

struct Quantised {
  std::vector<std::int8_t> x8;
  std::vector<float> scales;
};

// One row and one scale more than there are, to catch writes past the end.
Quantised Keys(const HeadView& k, const std::vector<float>& c) {
  Quantised out{std::vector<std::int8_t>((k.rows + 1) * k.head_dim, kPoison),
                std::vector<float>(CeilDiv(k.rows, kBlockN) + 1, -1.0F)};
  QuantizeKeys(k, c.data(), out.x8.data(), out.scales.data());
  return out;
}

Quantised Queries(const HeadView& q) {
  Quantised out{std::vector<std::int8_t>((q.rows + 1) * q.head_dim, kPoison),
                std::vector<float>(q.rows + 1, -1.0F)};
  QuantizeQueries(q, out.x8.data(), out.scales.data());
  return out;
}

TEST(QuantizeKeys, EveryElementIsWithinHalfAStepOfItsValue) {
  for (const std::int64_t rows : {1, 63, 64, 65, 127, 128, 129, 1000}) {
    SCOPED_TRACE(rows);
    const std::vector<float> data = Normal(rows * kDim, static_cast<std::uint32_t>(rows));
    std::vector<float> c(kDim);
    ComputeSmoothing(ViewOf(data, rows), c.data());
    const Quantised got = Keys(ViewOf(data, rows), c);
    for (std::int64_t row = 0; row < rows; ++row) {
      const double scale = got.scales[row / kBlockN];
      for (std::int64_t d = 0; d < kDim; ++d) {
        const double value = data[row * kDim + d] - c[d];
        // Half a step, and a little for the fp32 rounding of r and of the product.
        ASSERT_NEAR(got.x8[row * kDim + d] * scale, value, scale * 0.5001) << row << " " << d;
      }
    }
    EXPECT_EQ(got.x8[rows * kDim], kPoison);
    EXPECT_EQ(got.scales[CeilDiv(rows, kBlockN)], -1.0F);
  }
}

TEST(QuantizeKeys, TheLargestElementOfABlockBecomes127) {
  const std::int64_t rows = 130;
  const std::vector<float> data = Normal(rows * kDim, 7);
  const Quantised got = Keys(ViewOf(data, rows), std::vector<float>(kDim, 0.0F));
  for (std::int64_t begin = 0; begin < rows; begin += kBlockN) {
    int largest = 0;
    float absmax = 0;
    for (std::int64_t i = begin * kDim; i < std::min(begin + kBlockN, rows) * kDim; ++i) {
      largest = std::max(largest, std::abs(int{got.x8[i]}));
      absmax = std::max(absmax, std::abs(data[i]));
    }
    EXPECT_EQ(largest, 127);
    EXPECT_EQ(got.scales[begin / kBlockN], absmax / 127.0F);
  }
}

TEST(QuantizeQueries, EveryTokenHasItsOwnScale) {
  std::vector<float> data(3 * kDim, 0.0F);
  data[5] = -254.0F;
  data[2 * kDim + 1] = 1.0F;
  data[2 * kDim + 2] = 0.5F;
  const Quantised got = Queries(ViewOf(data, 3));
  EXPECT_EQ(got.scales[0], 2.0F);
  EXPECT_EQ(got.x8[5], -127);
  EXPECT_EQ(got.scales[1], 0.0F);
  EXPECT_EQ(got.scales[2], 1.0F / 127.0F);
  EXPECT_EQ(got.x8[2 * kDim + 1], 127);
  EXPECT_EQ(got.x8[2 * kDim + 2], 64);  // 63.5: the tie goes to even
  EXPECT_EQ(got.x8[3 * kDim], kPoison);
  EXPECT_EQ(got.scales[3], -1.0F);
}

TEST(QuantizeQueries, TiesGoToEven) {
  std::vector<float> data(8, 0.0F);
  data[0] = 127.0F;  // scale 1
  data[1] = 0.5F;
  data[2] = 1.5F;
  data[3] = 2.5F;
  data[4] = -2.5F;
  data[5] = -3.5F;
  const Quantised got = Queries(ViewOf(data, 1, 8));
  const std::vector<std::int8_t> want = {127, 0, 2, 2, -2, -4, 0, 0};
  EXPECT_EQ(std::vector<std::int8_t>(got.x8.begin(), got.x8.begin() + 8), want);
}

TEST(QuantizeQueries, MagnitudesBelowTheThresholdCountAsZero) {
  for (const float value : {0x1p-101F, std::nextafter(0x1p-100F, 0.0F), 0x1p-149F}) {
    const Quantised got = Queries(ViewOf(std::vector<float>(8, value), 1, 8));
    EXPECT_EQ(got.scales[0], 0.0F) << value;
    EXPECT_EQ(got.x8[0], 0) << value;
  }
  const Quantised got = Queries(ViewOf(std::vector<float>(8, -0x1p-100F), 1, 8));
  EXPECT_EQ(got.scales[0], 0x1p-100F / 127.0F);
  EXPECT_EQ(got.x8[0], -127);
}

TEST(QuantizeKeys, ANonFiniteValueSpoilsItsOwnBlockOnly) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad :
       {nan, std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    const std::int64_t rows = 150;
    std::vector<float> data = Normal(rows * kDim, 3);
    data[70 * kDim + 9] = bad;
    std::vector<float> c(kDim);
    ComputeSmoothing(ViewOf(data, rows), c.data());
    const Quantised got = Keys(ViewOf(data, rows), c);
    EXPECT_GT(got.scales[0], 0.0F);
    EXPECT_TRUE(std::isnan(got.scales[1]));
    EXPECT_GT(got.scales[2], 0.0F);
    for (std::int64_t i = 64 * kDim; i < 128 * kDim; ++i) ASSERT_EQ(got.x8[i], 0);
  }
}

TEST(QuantizeQueries, ANonFiniteValueSpoilsItsOwnTokenOnly) {
  std::vector<float> data = Normal(3 * kDim, 4);
  data[kDim + 63] = std::numeric_limits<float>::infinity();
  const Quantised got = Queries(ViewOf(data, 3));
  EXPECT_GT(got.scales[0], 0.0F);
  EXPECT_TRUE(std::isnan(got.scales[1]));
  for (std::int64_t d = 0; d < kDim; ++d) ASSERT_EQ(got.x8[kDim + d], 0);
  EXPECT_GT(got.scales[2], 0.0F);
}

TEST(ComputeSmoothing, IsTheMeanOfTheKeys) {
  const std::int64_t rows = 200;
  const std::vector<float> data = Normal(rows * kDim, 5);
  std::vector<float> c(kDim);
  ComputeSmoothing(ViewOf(data, rows), c.data());
  for (std::int64_t d = 0; d < kDim; ++d) {
    double sum = 0;
    for (std::int64_t row = 0; row < rows; ++row) sum += data[row * kDim + d];
    ASSERT_NEAR(c[d], sum / rows, 1e-6);  // 200 fp32 additions of values near 1
  }
}

TEST(ComputeSmoothing, SumsBlocksFirst) {
  // 2^24 + 1 is no fp32 number: ones vanish beside 2^24, but not when their block is summed first.
  std::vector<float> data(128 * 8, 0.0F);
  data[0] = 0x1p24F;
  for (std::int64_t row = 64; row < 128; ++row) data[row * 8] = 1.0F;
  std::vector<float> c(8);
  ComputeSmoothing(ViewOf(data, 128, 8), c.data());
  EXPECT_EQ(c[0], (0x1p24F + 64) / 128);
}

TEST(ComputeSmoothing, SkipsNonFiniteValues) {
  const std::vector<float> data = {NAN, 1, INFINITY, 1, -INFINITY, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1};
  std::vector<float> c(8, -1.0F);
  ComputeSmoothing(ViewOf(data, 2, 8), c.data());
  EXPECT_EQ(c, (std::vector<float>{1, 1, 1, 1, 1, 1, 2, 1}));
}

TEST(ComputeSmoothing, WithoutKeysIsZero) {
  std::vector<float> c(kDim, 3.0F);
  ComputeSmoothing({.dtype = DType::kFloat16, .rows = 0, .row_stride = kDim, .head_dim = kDim},
                   c.data());
  EXPECT_EQ(c, std::vector<float>(kDim, 0.0F));
}

TEST(QueryDotSmoothing, AddsProductsOfEightChannelsInOrder) {
  const std::vector<float> q = {0x1p24F, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0x1p24F, 0, 0, 0, 0, 0};
  const std::vector<float> c(8, 1.0F);
  std::vector<float> dot(3, -1.0F);
  QueryDotSmoothing(ViewOf(q, 2, 8), c.data(), dot.data());
  EXPECT_EQ(dot, (std::vector<float>{0x1p24F, 0x1p24F + 2, -1.0F}));
}

TEST(QueryDotSmoothing, AddsSumsOfEightChannelsInPairs) {
  // Five sums, ((2^24 + 1) + (1 + 1)) + 0: only the pair of ones is not lost.
  std::vector<float> q(40, 0.0F);
  q[0] = 0x1p24F;
  q[8] = q[16] = q[24] = 1.0F;
  const std::vector<float> c(40, 1.0F);
  float dot = -1.0F;
  QueryDotSmoothing(ViewOf(q, 1, 40), c.data(), &dot);
  EXPECT_EQ(dot, 0x1p24F + 2);
}

TEST(QueryDotSmoothing, RoundsEveryProduct) {
  // x^2 = 1 + 2^-11 + 2^-24 rounds to 1 + 2^-11, which a fused multiply-add would not do.
  const float x = 1 + 0x1p-12F;
  const std::vector<float> q = {1 + 0x1p-11F, x, 0, 0, 0, 0, 0, 0};
  const std::vector<float> c = {-1, x, 0, 0, 0, 0, 0, 0};
  float dot = -1;
  QueryDotSmoothing(ViewOf(q, 1, 8), c.data(), &dot);
  EXPECT_EQ(dot, 0.0F);
}

// The same numbers in every dtype and at every stride give the same bits.
TEST(Quantize, DependsOnValuesOnly) {
  const std::int64_t rows = 100;
  const std::int64_t stride = kDim + 24;
  std::vector<float> dense(rows * kDim);
  std::vector<Float16> half(rows * stride, Float16{0x7e00});
  std::vector<BFloat16> brain(rows * stride, BFloat16{0x7fc0});
  std::mt19937 random(11);
  std::uniform_int_distribution<int> small(-100, 100);  // exact in every dtype
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t d = 0; d < kDim; ++d) {
      const float value = static_cast<float>(small(random)) / 16;
      dense[row * kDim + d] = value;
      half[row * stride + d] = ToFloat16(value);
      brain[row * stride + d] = ToBFloat16(value);
    }
  }
  const HeadView views[] = {ViewOf(dense, rows),
                            {half.data(), DType::kFloat16, rows, stride, kDim},
                            {brain.data(), DType::kBFloat16, rows, stride, kDim}};
  std::vector<float> c(kDim);
  ComputeSmoothing(views[0], c.data());
  const Quantised keys = Keys(views[0], c);
  const Quantised queries = Queries(views[0]);
  std::vector<float> dot(rows);
  QueryDotSmoothing(views[0], c.data(), dot.data());
  for (const HeadView& view : views) {
    std::vector<float> other_c(kDim);
    ComputeSmoothing(view, other_c.data());
    EXPECT_EQ(other_c, c);
    EXPECT_EQ(Keys(view, c).x8, keys.x8);
    EXPECT_EQ(Keys(view, c).scales, keys.scales);
    EXPECT_EQ(Queries(view).x8, queries.x8);
    EXPECT_EQ(Queries(view).scales, queries.scales);
    std::vector<float> other_dot(rows);
    QueryDotSmoothing(view, c.data(), other_dot.data());
    EXPECT_EQ(other_dot, dot);
  }
}

}  // namespace
}  // namespace sage
