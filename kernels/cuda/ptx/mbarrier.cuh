// Barriers in shared memory that count arrivals and bytes of asynchronous copies (mbarrier, sm_90).
#ifndef SAGE_KERNELS_CUDA_PTX_MBARRIER_CUH_
#define SAGE_KERNELS_CUDA_PTX_MBARRIER_CUH_

#include <cstdint>

namespace sage::cuda::ptx {

// A barrier is named by its address in shared memory. Its phases alternate in parity, from 0 on; a
// wait for a parity returns once the phase of that parity is complete.
__device__ __forceinline__ void InitBarrier(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier))),
               "r"(arrivals)
               : "memory");
}

// Makes the barriers that this thread has initialised known to asynchronous copies.
__device__ __forceinline__ void FenceBarrierInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void Arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier)))
               : "memory");
}

// Arrives once the copies (cp.async) that this thread has begun are there.
__device__ __forceinline__ void ArriveAfterCopies(std::uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier)))
               : "memory");
}

// Arrives, and has the phase wait for so many bytes of copies as well.
__device__ __forceinline__ void ArriveExpecting(std::uint64_t* barrier, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier))),
               "r"(bytes)
               : "memory");
}

// Sleeps, rather than take issue slots from the warps that it waits for.
__device__ __forceinline__ void Wait(std::uint64_t* barrier, std::uint32_t parity) {
  constexpr std::uint32_t kLongestSleepNs = 10'000'000;
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1, %2;\n"
      "@!done bra again;\n}" ::"r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier))),
      "r"(parity), "r"(kLongestSleepNs)
      : "memory");
}

// Whether a wait for `parity` would return at once. Asked for ahead of its use: it takes a while.
__device__ __forceinline__ bool IsComplete(std::uint64_t* barrier, std::uint32_t parity) {
  std::uint32_t complete;
  asm volatile(
      "{\n.reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.b32 %0, 1, 0, done;\n}"
      : "=r"(complete)
      : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier))), "r"(parity)
      : "memory");
  return complete != 0;
}

}  // namespace sage::cuda::ptx

#endif  // SAGE_KERNELS_CUDA_PTX_MBARRIER_CUH_
