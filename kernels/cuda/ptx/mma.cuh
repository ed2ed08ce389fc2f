// Tensor-core products of one warp, D = A B + C (mma.sync, sm_80+).
//
// Fragments are those of the PTX manual: with g = lane / 4 and t = lane % 4, D and C hold rows g
// and g + 8, columns 2t and 2t + 1, in the order (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1).
#ifndef SAGE_KERNELS_CUDA_PTX_MMA_CUH_
#define SAGE_KERNELS_CUDA_PTX_MMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace sage::cuda::ptx {

// mma.m16n8k32 of signed bytes with int32 sums. b0 and b1 are the lower and upper half of k.
__device__ __forceinline__ void MmaInt8(int (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                        std::uint32_t b1, const int (&c)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %11, %12, %13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]),
        "r"(c[2]), "r"(c[3]));
}

// mma.m16n8k16 of FP16 or BF16, by the element type, with FP32 sums.
template <typename Element>
__device__ __forceinline__ void MmaFloat16(float (&d)[4], const std::uint32_t (&a)[4],
                                           std::uint32_t b0, std::uint32_t b1, const float (&c)[4]);

template <>
__device__ __forceinline__ void MmaFloat16<__half>(float (&d)[4], const std::uint32_t (&a)[4],
                                                   std::uint32_t b0, std::uint32_t b1,
                                                   const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
}

template <>
__device__ __forceinline__ void MmaFloat16<__nv_bfloat16>(float (&d)[4],
                                                          const std::uint32_t (&a)[4],
                                                          std::uint32_t b0, std::uint32_t b1,
                                                          const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
}

// mma.m16n8k32 of e4m3 with FP32 sums (sm_89+). b0 and b1 are the lower and upper half of k.
__device__ __forceinline__ void MmaE4m3(float (&d)[4], const std::uint32_t (&a)[4],
                                        std::uint32_t b0, std::uint32_t b1, const float (&c)[4]) {
#if __CUDA_ARCH__ >= 890
  asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
#else
  __trap();
#endif
}

// The same with FP16 sums, two a register: a row's pair each.
__device__ __forceinline__ void MmaE4m3(std::uint32_t (&d)[2], const std::uint32_t (&a)[4],
                                        std::uint32_t b0, std::uint32_t b1,
                                        const std::uint32_t (&c)[2]) {
#if __CUDA_ARCH__ >= 890
  asm("mma.sync.aligned.m16n8k32.row.col.f16.e4m3.e4m3.f16 {%0, %1}, {%2, %3, %4, %5}, {%6, %7}, "
      "{%8, %9};"
      : "=r"(d[0]), "=r"(d[1])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]));
#else
  __trap();
#endif
}

}  // namespace sage::cuda::ptx

#endif  // SAGE_KERNELS_CUDA_PTX_MMA_CUH_
