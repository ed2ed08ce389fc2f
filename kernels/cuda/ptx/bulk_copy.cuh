// Asynchronous copies from global into shared memory by the copy engine (TMA, sm_90), and the
// fences that go with them. Copies report their bytes to a barrier.
#ifndef SAGE_KERNELS_CUDA_PTX_BULK_COPY_CUH_
#define SAGE_KERNELS_CUDA_PTX_BULK_COPY_CUH_

#include <cuda.h>

#include <cstdint>

namespace sage::cuda::ptx {

// `bytes` is a multiple of 16, and so are both addresses.
__device__ __forceinline__ void CopyBulk(void* smem, const void* gmem, std::uint32_t bytes,
                                         std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(smem))),
      "l"(gmem), "r"(bytes), "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier)))
      : "memory");
}

// The box of a three-dimensional tensor at (x, y, z), zeros where it reaches past the tensor.
__device__ __forceinline__ void CopyBox(void* smem, const CUtensorMap* map, std::int32_t x,
                                        std::int32_t y, std::int32_t z, std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
          static_cast<std::uint32_t>(__cvta_generic_to_shared(smem))),
      "l"(map), "r"(x), "r"(y), "r"(z),
      "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(barrier)))
      : "memory");
}

// Before a tensor map in global memory that an earlier kernel has written is used.
__device__ __forceinline__ void AcquireTensorMap(const CUtensorMap* map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
}

// Between ordinary stores to shared memory and reads of it by tensor cores or the copy engine.
__device__ __forceinline__ void FenceAsyncProxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace sage::cuda::ptx

#endif  // SAGE_KERNELS_CUDA_PTX_BULK_COPY_CUH_
