// Making an instance of the attention kernel ready to launch.
#ifndef SAGE_KERNELS_CUDA_SM90_LOAD_CUH_
#define SAGE_KERNELS_CUDA_SM90_LOAD_CUH_

#include "kernels/cuda/sm90/attend.cuh"
#include "kernels/cuda/sm90/kernels.h"

namespace sage::cuda::sm90 {

inline constexpr float kE4m3Range = 448.0F;

template <typename Policy>
cudaError_t Load(const KernelChoice& choice, Kernel* kernel) {
  constexpr int kSmemBytes = sizeof(SharedStorage<Policy>);
  static_assert(kSmemBytes <= 228 * 1024 / Policy::kBlocksPerSm - 1024);
  *kernel = {.function = reinterpret_cast<const void*>(&Attend<Policy>),
             .threads = Policy::kThreads,
             .smem_bytes = kSmemBytes,
             .grid_limit = choice.num_sms * Policy::kBlocksPerSm,
             .value_range = Policy::kE4m3Values ? kE4m3Range : 0.0F,
             .needs_tensor_maps = !Policy::kInt8Scores || !Policy::kE4m3Values};
  return cudaFuncSetAttribute(kernel->function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              kSmemBytes);
}

// Loads Policy<Element, head_dim>.
template <template <typename, int> typename Policy>
cudaError_t LoadAny(const KernelChoice& choice, Kernel* kernel) {
  if (choice.type == ElementType::kFloat16) {
    return choice.padded_dim == 64 ? Load<Policy<__half, 64>>(choice, kernel)
                                   : Load<Policy<__half, 128>>(choice, kernel);
  }
  return choice.padded_dim == 64 ? Load<Policy<__nv_bfloat16, 64>>(choice, kernel)
                                 : Load<Policy<__nv_bfloat16, 128>>(choice, kernel);
}

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_LOAD_CUH_
