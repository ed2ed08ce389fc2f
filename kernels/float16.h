// IEEE binary16 and bfloat16 as storage formats.
//
// Conversions are exact where the target can hold the value and round to nearest, ties to even,
// where it cannot; NaN stays NaN, and values past the largest finite number become infinite. No
// flush to zero.
#ifndef SAGE_KERNELS_FLOAT16_H_
#define SAGE_KERNELS_FLOAT16_H_

#include <bit>
#include <cstdint>

namespace sage {

// Bits of an IEEE binary16 number: 1 sign, 5 exponent, 10 fraction.
struct Float16 {
  std::uint16_t bits;
};

// Bits of a bfloat16 number: the upper half of an IEEE binary32.
struct BFloat16 {
  std::uint16_t bits;
};

// Largest finite binary16 value.
inline constexpr float kFloat16Max = 65504.0f;

inline float ToFloat(BFloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

inline float ToFloat(Float16 x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = x.bits & 0x7fffu;
  // Shifting into place scales the value by 2^-112; subnormals come out right as well.
  constexpr float kTwoPow112 = 5192296858534827628530496329220096.0f;
  const float scaled = std::bit_cast<float>(magnitude << 13) * kTwoPow112;
  // Infinity and NaN: the fraction is in place, the exponent becomes full. A choice between two
  // numbers, both computed, is what compilers make vectors of.
  const std::uint32_t special = 0x7f800000u | (magnitude << 13);
  const std::uint32_t widened =
      magnitude >= 0x7c00u ? special : std::bit_cast<std::uint32_t>(scaled);
  return std::bit_cast<float>(widened | sign);
}

inline float ToFloat(float x) { return x; }

inline BFloat16 ToBFloat16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};  // keep NaN a quiet NaN
  }
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

inline Float16 ToFloat16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x3ffu);  // NaN, made quiet
  } else if (magnitude >= 0x477ff000u) {            // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {  // below 2^-14: subnormal
    // Adding 0.5 aligns the fraction with the subnormal grid; the FPU does the rounding.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    half = std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u;
  } else {
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    half = (rounded - 0x38000000u) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

}  // namespace sage

#endif  // SAGE_KERNELS_FLOAT16_H_
