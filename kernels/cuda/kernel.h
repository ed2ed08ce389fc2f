// An attention kernel as the device runs it, and what it is chosen for.
#ifndef SAGE_KERNELS_CUDA_KERNEL_H_
#define SAGE_KERNELS_CUDA_KERNEL_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/device_task.h"

namespace sage::cuda {

struct Kernel {
  const void* function = nullptr;
  int threads = 0;  // of a thread block
  int smem_bytes = 0;
  int grid_limit = 0;              // thread blocks that fit on the device at once
  float value_range = 0.0F;        // e4m3 values are to fill [-value_range, value_range]; else 0
  bool needs_tensor_maps = false;  // of K and V where they are as given
};

struct KernelChoice {
  ElementType type = ElementType::kFloat16;  // or kBFloat16
  int padded_dim = 0;                        // 64 or 128
  int num_sms = 0;                           // of the current device
  int compute_capability = 0;                // likewise, as 89 for 8.9
  // Takes the form for multiprocessors with 100 KB of shared memory where it would not be taken.
  bool compact = false;
};

// Queues the attention of table.num_items items, at least one.
cudaError_t Launch(const Kernel& kernel, const WorkTable& table, cudaStream_t stream);

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_KERNEL_H_
