// Loads of 8x8 matrices of 16-bit elements from shared memory into fragments (sm_75+).
#ifndef SAGE_KERNELS_CUDA_PTX_LDMATRIX_CUH_
#define SAGE_KERNELS_CUDA_PTX_LDMATRIX_CUH_

#include <cstdint>

namespace sage::cuda::ptx {

// ldmatrix.x4: lane l gives the address of row l % 8 of matrix l / 8, 16 bytes each.
__device__ __forceinline__ void LoadMatrices(std::uint32_t (&fragment)[4], std::uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(smem)
               : "memory");
}

// ldmatrix.x4.trans: the same, each matrix transposed.
__device__ __forceinline__ void LoadMatricesTransposed(std::uint32_t (&fragment)[4],
                                                       std::uint32_t smem) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
               : "r"(smem)
               : "memory");
}

}  // namespace sage::cuda::ptx

#endif  // SAGE_KERNELS_CUDA_PTX_LDMATRIX_CUH_
