// The mma.sync kernels, for every GPU from sm_80 on.
#ifndef SAGE_KERNELS_CUDA_SM80_KERNELS_H_
#define SAGE_KERNELS_CUDA_SM80_KERNELS_H_

#include "kernels/cuda/kernel.h"

namespace sage::cuda::sm80 {

// The first compute capability whose tensor cores have e4m3.
inline constexpr int kFirstE4m3 = 89;

// Fills in `kernel` for the current device. Fails with cudaErrorNoKernelImageForDevice where the
// build has no code for it; the e4m3 kernels also on devices below kFirstE4m3.
cudaError_t LoadQkInt8PvFp16(const KernelChoice& choice, Kernel* kernel);
cudaError_t LoadQkInt8PvFp8(const KernelChoice& choice, Kernel* kernel);
cudaError_t LoadFp16(const KernelChoice& choice, Kernel* kernel);

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_KERNELS_H_
