// Making an instance of the attention kernel ready to launch.
#ifndef SAGE_KERNELS_CUDA_SM80_LOAD_CUH_
#define SAGE_KERNELS_CUDA_SM80_LOAD_CUH_

#include "kernels/cuda/sm80/attend.cuh"
#include "kernels/cuda/sm80/launch.h"

namespace sage::cuda::sm80 {

template <typename Policy>
cudaError_t Load(int num_sms, Kernel* kernel) {
  constexpr int kSmemBytes = sizeof(SharedStorage<Policy>);
  kernel->function = reinterpret_cast<const void*>(&Attend<Policy>);
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

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_LOAD_CUH_
