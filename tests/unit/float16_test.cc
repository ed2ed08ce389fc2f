#include "kernels/float16.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "gtest/gtest.h"

namespace sage {
namespace {

// A format with `fraction_bits` bits after the leading one, exponents from `min_exponent` up, and
// `max` as its largest finite value.
struct Format {
  int fraction_bits;
  int min_exponent;
  double max;
};
constexpr Format kHalf{10, -14, 65504.0};
constexpr Format kBrain{7, -126, 0x1.fep127};

// `x` rounded to `format` in double arithmetic, where scaling by powers of two is exact.
double RoundTo(const Format& format, float x) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::max(std::ilogb(x), format.min_exponent);
  const double unit = std::ldexp(1.0, exponent - format.fraction_bits);
  const double rounded = std::nearbyint(x / unit) * unit;
  return std::abs(rounded) > format.max
             ? std::copysign(std::numeric_limits<double>::infinity(), rounded)
             : rounded;
}

// The same value with the same sign, where all NaN are one value.
bool SameNumber(double a, double b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

void ExpectRoundsRight(float x) {
  ASSERT_TRUE(SameNumber(ToFloat(ToFloat16(x)), RoundTo(kHalf, x))) << "fp16 of " << x;
  ASSERT_TRUE(SameNumber(ToFloat(ToBFloat16(x)), RoundTo(kBrain, x))) << "bf16 of " << x;
}

float Value(std::uint32_t bits) { return std::bit_cast<float>(bits); }

// Value of binary16 bits by the definition of the format.
double DecodeHalf(std::uint32_t bits) {
  const int exponent = static_cast<int>((bits >> 10) & 31);
  const int fraction = static_cast<int>(bits & 1023);
  double magnitude =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  if (exponent == 31) magnitude = fraction == 0 ? INFINITY : NAN;
  return (bits >> 15) != 0 ? -magnitude : magnitude;
}

TEST(Float16, EveryHalfDecodesAsDefinedAndSurvivesTheRoundTrip) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 half{static_cast<std::uint16_t>(bits)};
    const float value = ToFloat(half);
    ASSERT_TRUE(SameNumber(value, DecodeHalf(bits))) << bits;
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(ToFloat(ToFloat16(value)))) << bits;
    } else {
      ASSERT_EQ(ToFloat16(value).bits, bits);
    }
  }
}

TEST(Float16, EveryBrainFloatSurvivesTheRoundTrip) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = ToFloat(BFloat16{static_cast<std::uint16_t>(bits)});
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(ToFloat(ToBFloat16(value)))) << bits;
    } else {
      ASSERT_EQ(value, Value(bits << 16));
      ASSERT_EQ(ToBFloat16(value).bits, bits);
    }
  }
}

// Every place where the rounding can change is a midpoint of neighbours of one of the formats: each
// midpoint, and the floats on both sides of it.
TEST(Float16, RoundsToNearestEvenAroundEveryMidpoint) {
  for (std::uint32_t sign : {0U, 0x8000U}) {
    for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
      const double below = DecodeHalf(sign | bits);
      // The neighbour of the largest number is where the next binade would start.
      const double above =
          bits == 0x7bff ? std::copysign(65536.0, below) : DecodeHalf(sign | (bits + 1));
      const auto middle = std::bit_cast<std::uint32_t>(static_cast<float>((below + above) / 2));
      for (std::uint32_t near = middle - 1; near != middle + 2; ++near) {
        ExpectRoundsRight(Value(near));
      }
    }
    for (std::uint32_t bits = 0; bits < 0x7f80; ++bits) {
      const std::uint32_t middle = ((sign | bits) << 16) + 0x8000U;
      for (std::uint32_t near = middle - 1; near != middle + 2; ++near) {
        ExpectRoundsRight(Value(near));
      }
    }
  }
}

TEST(Float16, RandomFloatsRoundLikeDoubles) {
  constexpr std::uint32_t kSeed = 16;
  std::mt19937 random(kSeed);
  for (int i = 0; i < 4'000'000; ++i) ExpectRoundsRight(Value(random()));
}

TEST(Float16, ValuesPastTheLargestBecomeInfinite) {
  EXPECT_EQ(ToFloat(ToFloat16(65519.0F)), kFloat16Max);
  EXPECT_EQ(ToFloat(ToFloat16(65520.0F)), INFINITY);
  EXPECT_EQ(ToFloat(ToFloat16(-1e30F)), -INFINITY);
  EXPECT_EQ(ToFloat(ToBFloat16(std::numeric_limits<float>::max())), INFINITY);
}

TEST(Float16, SmallestSubnormalsAreKept) {
  EXPECT_EQ(ToFloat(ToFloat16(0x1p-24F)), 0x1p-24F);
  EXPECT_EQ(ToFloat(ToFloat16(0x1p-25F)), 0.0F);  // a tie goes to even
  EXPECT_EQ(ToFloat(ToFloat16(0x1.8p-25F)), 0x1p-24F);
  EXPECT_EQ(ToFloat(ToBFloat16(0x1p-133F)), 0x1p-133F);
}

}  // namespace
}  // namespace sage
