// The arithmetic of quantisation spec `sage1` on the device, with the bits of kernels/quantize.h:
// every operation is one IEEE fp32 operation that the compiler may neither contract nor flush.
#ifndef SAGE_KERNELS_CUDA_SAGE1_CUH_
#define SAGE_KERNELS_CUDA_SAGE1_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace sage::cuda {

// The two 16-bit elements of a word, widened exactly.
template <typename Element>
__device__ __forceinline__ float2 Widen(std::uint32_t pair);

template <>
__device__ __forceinline__ float2 Widen<__half>(std::uint32_t pair) {
  __half2 halves;
  memcpy(&halves, &pair, sizeof(halves));
  return __half22float2(halves);
}

template <>
__device__ __forceinline__ float2 Widen<__nv_bfloat16>(std::uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000U)};
}

// |x| as bits: ordered like the magnitudes, with infinities and NaN above every finite number.
__device__ __forceinline__ std::uint32_t MagnitudeBits(float x) {
  return __float_as_uint(x) & 0x7fffffffU;
}

__device__ __forceinline__ bool IsFinite(float x) { return MagnitudeBits(x) < 0x7f800000U; }

// Scale of a group and the factor that its elements are multiplied by before rounding.
struct GroupScale {
  float scale;   // NaN for a group with a non-finite element
  float factor;  // 0 for groups whose elements all become 0
};

// `max_bits` is the largest MagnitudeBits() of the group.
__device__ __forceinline__ GroupScale MakeGroupScale(std::uint32_t max_bits) {
  constexpr std::uint32_t kInfinityBits = 0x7f800000U;
  constexpr std::uint32_t kZeroThresholdBits = 0x0d800000U;  // 2^-100
  if (max_bits >= kInfinityBits) return {__uint_as_float(0x7fc00000U), 0.0F};
  if (max_bits < kZeroThresholdBits) return {0.0F, 0.0F};
  const float m = __uint_as_float(max_bits);
  return {__fdiv_rn(m, 127.0F), __fdiv_rn(127.0F, m)};
}

// Four centred elements as x8, the first in the lowest byte. A factor of 0 gives 0, also for what
// is not finite.
__device__ __forceinline__ std::uint32_t QuantizeWord(float a, float b, float c, float d,
                                                      float factor) {
  // 1.5 * 2^23: a sum with it is rounded to an integer, ties to even, whose two's complement is in
  // its lowest bits. Products are within 127 and half an ulp, so nothing is left to clamp.
  constexpr float kRounder = 12582912.0F;
  const auto rounded = [factor](float x) {
    return __float_as_uint(__fadd_rn(__fmul_rn(x, factor), kRounder));
  };
  const std::uint32_t low = __byte_perm(rounded(a), rounded(b), 0x0040);
  const std::uint32_t high = __byte_perm(rounded(c), rounded(d), 0x0040);
  return factor == 0.0F ? 0 : __byte_perm(low, high, 0x5410);
}

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_SAGE1_CUH_
