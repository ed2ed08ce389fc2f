// The wgmma kernels, for sm_90a alone.
#ifndef SAGE_KERNELS_CUDA_SM90_KERNELS_H_
#define SAGE_KERNELS_CUDA_SM90_KERNELS_H_

#include "kernels/cuda/kernel.h"

namespace sage::cuda::sm90 {

inline constexpr int kComputeCapability = 90;

// Fills in `kernel` for the current device. Fails with cudaErrorNoKernelImageForDevice on any
// other.
cudaError_t LoadQkInt8PvFp16(const KernelChoice& choice, Kernel* kernel);
cudaError_t LoadQkInt8PvFp8(const KernelChoice& choice, Kernel* kernel);
cudaError_t LoadFp16(const KernelChoice& choice, Kernel* kernel);

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_KERNELS_H_
