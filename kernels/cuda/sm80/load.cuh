// Making an instance of the attention kernel ready to launch.
#ifndef SAGE_KERNELS_CUDA_SM80_LOAD_CUH_
#define SAGE_KERNELS_CUDA_SM80_LOAD_CUH_

#include "kernels/cuda/sm80/attend.cuh"
#include "kernels/cuda/sm80/kernels.h"

namespace sage::cuda::sm80 {

template <typename Policy>
cudaError_t Load(int num_sms, Kernel* kernel) {
  constexpr int kSmemBytes = sizeof(SharedStorage<Policy>);
  kernel->function = reinterpret_cast<const void*>(&Attend<Policy>);
  kernel->threads = kThreads;
  kernel->smem_bytes = kSmemBytes;
  cudaError_t error = cudaFuncSetAttribute(kernel->function,
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, kSmemBytes);
  int blocks_per_sm = 0;
  if (error == cudaSuccess) {
    error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks_per_sm, kernel->function,
                                                          kThreads, kSmemBytes);
  }
  kernel->grid_limit = num_sms * blocks_per_sm;
  return error;
}

// Loads Roomy where as many of its thread blocks fit on a multiprocessor as it is made for, else
// Compact.
template <typename Roomy, typename Compact>
cudaError_t LoadFitting(const KernelChoice& choice, Kernel* kernel) {
  if (!choice.compact) {
    const cudaError_t error = Load<Roomy>(choice.num_sms, kernel);
    if (error == cudaSuccess && kernel->grid_limit >= Roomy::kMinBlocks * choice.num_sms) {
      return error;
    }
    // Too much shared memory for one thread block is an error as well; it is not to stick.
    if (error != cudaSuccess && cudaGetLastError() != cudaErrorInvalidValue) return error;
  }
  return Load<Compact>(choice.num_sms, kernel);
}

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_LOAD_CUH_
