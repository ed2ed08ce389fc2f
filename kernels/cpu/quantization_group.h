// The scale of one `sage1` group from the largest magnitude in it; see kernels/quantize.h.
#ifndef SAGE_KERNELS_CPU_QUANTIZATION_GROUP_H_
#define SAGE_KERNELS_CPU_QUANTIZATION_GROUP_H_

#include <bit>
#include <cstdint>
#include <limits>

namespace sage {

struct QuantizationGroup {
  float scale;  // 0 for a group that counts as zero, NaN for one with a non-finite value
  float r;      // x8 = rint(x * r); 0 where all x8 are 0
};

// `magnitude_bits` are those of the largest |x|, infinity and NaN being largest of all.
inline QuantizationGroup MakeQuantizationGroup(std::int32_t magnitude_bits) {
  constexpr std::int32_t kInfinityBits = 0x7f800000;
  if (magnitude_bits >= kInfinityBits) return {std::numeric_limits<float>::quiet_NaN(), 0.0F};
  const auto m = std::bit_cast<float>(magnitude_bits);
  if (m < 0x1p-100F) return {0.0F, 0.0F};
  return {m / 127.0F, 127.0F / m};
}

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_QUANTIZATION_GROUP_H_
