// Registers and barriers of warpgroups (sm_90a).
#ifndef SAGE_KERNELS_CUDA_PTX_WARPGROUP_CUH_
#define SAGE_KERNELS_CUDA_PTX_WARPGROUP_CUH_

namespace sage::cuda::ptx {

// All four warps of a warpgroup call these, to leave registers to others or take what others left:
// from here on each of their threads has kCount.
template <int kCount>
__device__ __forceinline__ void LeaveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// Waits for all threads of warpgroup `which` of those that use this, of at most 15.
__device__ __forceinline__ void SyncWarpgroup(int which) {
  asm volatile("bar.sync %0, 128;" ::"r"(which + 1) : "memory");
}

}  // namespace sage::cuda::ptx

#endif  // SAGE_KERNELS_CUDA_PTX_WARPGROUP_CUH_
