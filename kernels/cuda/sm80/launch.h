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
  int grid_limit = 0;        // thread blocks that fit on the device at once
  float value_range = 0.0F;  // e4m3 values are to fill [-value_range, value_range]; else 0
};

// The first compute capability whose tensor cores have e4m3.
inline constexpr int kFirstE4m3 = 89;

// What a kernel is chosen for.
struct KernelChoice {
  ElementType type = ElementType::kFloat16;  // or kBFloat16
  int padded_dim = 0;                        // 64 or 128
  int num_sms = 0;                           // of the current device
  int compute_capability = 0;                // likewise, as 89 for 8.9
  // Takes the form for multiprocessors with 100 KB of shared memory where it would not be taken.
  bool compact = false;
};

// Fills in `kernel` for the current device. Fails with cudaErrorNoKernelImageForDevice where the
// build has no code for it; the e4m3 kernels also on devices below kFirstE4m3.
cudaError_t LoadQkInt8PvFp16(const KernelChoice& choice, Kernel* kernel);
cudaError_t LoadQkInt8PvFp8(const KernelChoice& choice, Kernel* kernel);
cudaError_t LoadFp16(const KernelChoice& choice, Kernel* kernel);

// Queues the attention of table.num_items items, at least one.
cudaError_t Launch(const Kernel& kernel, const WorkTable& table, cudaStream_t stream);

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_LAUNCH_H_
