// The mma.sync kernels, for every GPU from sm_80 on.
#ifndef SAGE_KERNELS_CUDA_SM80_LAUNCH_H_
#define SAGE_KERNELS_CUDA_SM80_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/device_task.h"

namespace sage::cuda::sm80 {

// A kernel as the device runs it. Launching it is `Launch(kernel, table, stream)`.
struct Kernel {
  const void* function = nullptr;
  int smem_bytes = 0;
  int grid_limit = 0;  // thread blocks that fit on the device at once
};

// Fills in `kernel` for the current device of `num_sms` multiprocessors. `type` is kFloat16 or
// kBFloat16, `padded_dim` 64 or 128. Fails with cudaErrorNoKernelImageForDevice where the build
// has no code for the device.
cudaError_t LoadQkInt8PvFp16(ElementType type, int padded_dim, int num_sms, Kernel* kernel);
cudaError_t LoadFp16(ElementType type, int padded_dim, int num_sms, Kernel* kernel);

// Queues the attention of table.num_items items, at least one.
cudaError_t Launch(const Kernel& kernel, const WorkTable& table, cudaStream_t stream);

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_LAUNCH_H_
