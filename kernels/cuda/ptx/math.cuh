// Single instructions of arithmetic.
#ifndef SAGE_KERNELS_CUDA_PTX_MATH_CUH_
#define SAGE_KERNELS_CUDA_PTX_MATH_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace sage::cuda::ptx {

// No instruction: `x` stays in its register instead of being computed anew at every use.
__device__ __forceinline__ void Keep(std::uint32_t& x) { asm volatile("" : "+r"(x)); }

// threadIdx.x, computed anew at every call: what follows from it takes no registers in between.
__device__ __forceinline__ int ThreadIndex() {
  int index = threadIdx.x;
  asm volatile("" : "+r"(index));
  return index;
}

// ex2.approx.ftz: 2^x within 2 ulp; 0 below 2^-126.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// cvt.rn: two fp32 as a pair of 16-bit elements, `low` in the lower half.
template <typename Element>
__device__ __forceinline__ std::uint32_t Pack(float low, float high);

template <>
__device__ __forceinline__ std::uint32_t Pack<__half>(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

template <>
__device__ __forceinline__ std::uint32_t Pack<__nv_bfloat16>(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// cvt.rn.satfinite: four fp32 as e4m3 bytes, the first lowest (sm_89+). Values past +-448 become
// +-448, infinities too; NaN becomes 0x7f.
__device__ __forceinline__ std::uint32_t PackE4m3(float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 890
  std::uint32_t word;
  asm("{.reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, %2, %1; "
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3; mov.b32 %0, {low, high};}"
      : "=r"(word)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return word;
#else
  __trap();
#endif
}

}  // namespace sage::cuda::ptx

#endif  // SAGE_KERNELS_CUDA_PTX_MATH_CUH_
