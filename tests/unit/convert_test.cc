#include "client/convert.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/float16.h"

namespace sage {
namespace {

using ::testing::HasSubstr;

TEST(ConvertTest, RoundsToNearestEven) {
  // Halfway cases around 1 (fp16 spacing 2^-10), the largest number, and the smallest subnormal.
  const std::vector<float> source = {1.0f,     1.0f + 0x1p-11f, 1.0f + 3 * 0x1p-11f,
                                     65504.0f, 65519.0f,        0x1p-24f,
                                     0x1p-25f, 0x1.8p-24f,      -0.0f};
  std::vector<std::uint16_t> target(source.size(), 0xffff);
  ASSERT_TRUE(
      ConvertFromFloat32(source.data(), source.size(), DType::kFloat16, target.data()).ok());
  EXPECT_EQ(target, (std::vector<std::uint16_t>{0x3c00, 0x3c00, 0x3c02, 0x7bff, 0x7bff, 0x0001,
                                                0x0000, 0x0002, 0x8000}));
}

TEST(ConvertTest, PassesInfinitiesAndNan) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> source = {inf, -inf, std::nanf("")};
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    std::vector<std::uint16_t> target(3, 0);
    ASSERT_TRUE(ConvertFromFloat32(source.data(), 3, dtype, target.data()).ok());
    const auto value = [&](int i) {
      return dtype == DType::kFloat16 ? ToFloat(Float16{target[i]}) : ToFloat(BFloat16{target[i]});
    };
    EXPECT_EQ(value(0), inf);
    EXPECT_EQ(value(1), -inf);
    EXPECT_TRUE(std::isnan(value(2)));
  }
}

TEST(ConvertTest, RefusesFiniteValuesOutsideOfFp16) {
  for (const float x : {65520.0f, -70000.0f, std::numeric_limits<float>::max()}) {
    const std::vector<float> source = {1.0f, x};
    std::vector<std::uint16_t> target(2);
    const absl::Status status =
        ConvertFromFloat32(source.data(), 2, DType::kFloat16, target.data());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("bf16"));
    EXPECT_TRUE(ConvertFromFloat32(source.data(), 2, DType::kBFloat16, target.data()).ok());
  }
}

TEST(ConvertTest, WorksInPlaceAndUnaligned) {
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  std::vector<float> source(1000);
  for (float& x : source) x = normal(generator);
  std::vector<std::byte> memory(1 + 4 * source.size());
  std::memcpy(memory.data() + 1, source.data(), 4 * source.size());
  ASSERT_TRUE(
      ConvertFromFloat32(memory.data() + 1, source.size(), DType::kFloat16, memory.data() + 1)
          .ok());
  for (std::size_t i = 0; i < source.size(); ++i) {
    std::uint16_t bits;
    std::memcpy(&bits, memory.data() + 1 + 2 * i, sizeof(bits));
    EXPECT_EQ(bits, ToFloat16(source[i]).bits) << i;
  }
}

}  // namespace
}  // namespace sage
