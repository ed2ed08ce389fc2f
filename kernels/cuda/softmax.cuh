// What the online softmax of every path shares.
#ifndef SAGE_KERNELS_CUDA_SOFTMAX_CUH_
#define SAGE_KERNELS_CUDA_SOFTMAX_CUH_

namespace sage::cuda {

inline constexpr float kLog2E4m3Max = 8.807354922057604F;  // of 448

// A maximum (log2) above which fma(score, unit, -maximum) may miss 0 by more than 1/64.
inline constexpr float kLargestFoldedMax = 262144.0F;

// Largest over the four threads of a row.
__device__ __forceinline__ float RowMax(float thread_max) {
  const float pair = fmaxf(thread_max, __shfl_xor_sync(0xffffffffU, thread_max, 1));
  return fmaxf(pair, __shfl_xor_sync(0xffffffffU, pair, 2));
}

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_SOFTMAX_CUH_
