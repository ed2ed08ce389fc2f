// Asynchronous copies from global to shared memory (sm_80+).
#ifndef SAGE_KERNELS_CUDA_PTX_CP_ASYNC_CUH_
#define SAGE_KERNELS_CUDA_PTX_CP_ASYNC_CUH_

#include <cstdint>

namespace sage::cuda::ptx {

// cp.async.cg: copies 16 bytes past L1.
__device__ __forceinline__ void CopyAsync16(std::uint32_t smem, const void* gmem) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(smem), "l"(gmem)
               : "memory");
}

// cp.async.cg with a source size: the same where `exists`, else 16 zeros, and nothing is read.
__device__ __forceinline__ void CopyAsync16OrZeros(std::uint32_t smem, const void* gmem,
                                                   bool exists) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(smem), "l"(gmem),
               "r"(exists ? 16 : 0)
               : "memory");
}

// cp.async.ca of 4 or 8 bytes, cp.async.cg of 16: those at `gmem` where they exist, else zeros, and
// nothing is read.
template <int kBytes>
__device__ __forceinline__ void CopyAsyncOrZeros(std::uint32_t smem, const void* gmem,
                                                 bool exists) {
  if constexpr (kBytes == 16) {
    CopyAsync16OrZeros(smem, gmem, exists);
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(smem), "l"(gmem),
                 "n"(kBytes), "r"(exists ? kBytes : 0)
                 : "memory");
  }
}

// cp.async.ca: copies 4 bytes.
__device__ __forceinline__ void CopyAsync4(std::uint32_t smem, const void* gmem) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(smem), "l"(gmem) : "memory");
}

// cp.async.commit_group: closes the group of copies issued by this thread since the last one.
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// cp.async.wait_group: waits until at most kPending of this thread's groups are in flight.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace sage::cuda::ptx

#endif  // SAGE_KERNELS_CUDA_PTX_CP_ASYNC_CUH_
