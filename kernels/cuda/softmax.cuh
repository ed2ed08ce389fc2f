// What the online softmax of every path shares.
#ifndef SAGE_KERNELS_CUDA_SOFTMAX_CUH_
#define SAGE_KERNELS_CUDA_SOFTMAX_CUH_

namespace sage::cuda {

inline constexpr float kLog2E4m3Max = 8.807354922057604F;  // of 448

// A maximum (log2) above which fma(score, unit, -maximum) may miss 0 by more than 1/64.
inline constexpr float kLargestFoldedMax = 262144.0F;

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_SOFTMAX_CUH_
