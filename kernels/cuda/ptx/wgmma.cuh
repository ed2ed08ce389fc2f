// Matrix products of a warpgroup (wgmma, sm_90a): D[64, N] += A[64, K] B[K, N], A and D in
// registers, B in shared memory. A and D lie in a warp's registers as those of mma.sync do, warp w
// of the four having rows [16 w, 16 w + 16).
//
// Products are asynchronous: Commit() closes a group of them, Wait<n>() returns once at most n
// groups are under way, and only then may registers of the others be touched.
#ifndef SAGE_KERNELS_CUDA_PTX_WGMMA_CUH_
#define SAGE_KERNELS_CUDA_PTX_WGMMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace sage::cuda::ptx {

// Before the first product after ordinary writes to its registers.
__device__ __forceinline__ void WgmmaFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kGroups>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}

// No instruction: keeps uses of registers that products write from moving up past a wait.
template <typename T, int kCount>
__device__ __forceinline__ void Settle(T (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (std::is_same_v<T, float>) {
      asm volatile("" : "+f"(registers[i])::"memory");
    } else {
      asm volatile("" : "+r"(registers[i])::"memory");
    }
  }
}

// Swizzles of shared memory, by the bytes of a row of a tile.
inline constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
inline constexpr std::uint64_t kSwizzle64 = std::uint64_t{2} << 62;

// Describes a B operand. Offsets are in bytes, multiples of 16: `leading` from one tile of columns
// to the next where B is not transposed, `stride` from eight rows of a tile to the next eight.
__device__ __forceinline__ std::uint64_t MatrixDescriptor(std::uint32_t smem, std::uint32_t leading,
                                                          std::uint32_t stride,
                                                          std::uint64_t swizzle) {
  return static_cast<std::uint64_t>((smem & 0x3ffffU) >> 4) |
         static_cast<std::uint64_t>(leading >> 4) << 16 |
         static_cast<std::uint64_t>(stride >> 4) << 32 | swizzle;
}
// What is added to a descriptor to move it on.
__device__ __forceinline__ constexpr std::uint64_t DescriptorStep(int bytes) { return bytes / 16; }

// Element type of e4m3 operands.
struct E4m3 {};

// Operand lists: SAGE_D<n>(constraint) names n registers of d, SAGE_P<n> their places.
#define SAGE_D4(c, i) c(d[i]), c(d[(i) + 1]), c(d[(i) + 2]), c(d[(i) + 3])
#define SAGE_D16(c, i) SAGE_D4(c, i), SAGE_D4(c, (i) + 4), SAGE_D4(c, (i) + 8), SAGE_D4(c, (i) + 12)
#define SAGE_D32(c) SAGE_D16(c, 0), SAGE_D16(c, 16)
#define SAGE_D36(c) SAGE_D32(c), SAGE_D4(c, 32)
#define SAGE_D64(c) SAGE_D32(c), SAGE_D16(c, 32), SAGE_D16(c, 48)
#define SAGE_D68(c) SAGE_D64(c), SAGE_D4(c, 64)
#define SAGE_P32                                                         \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15" \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SAGE_P36 SAGE_P32 ", %32, %33, %34, %35"
#define SAGE_P64                                                                     \
  SAGE_P32                                                                           \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SAGE_P68 SAGE_P64 ", %64, %65, %66, %67"
#define SAGE_READ_WRITE_INT(x) "+r"(x)
#define SAGE_READ_WRITE_FLOAT(x) "+f"(x)
#define SAGE_WRITE_INT(x) "=&r"(x)
#define SAGE_WgmmaScores_FLOAT(x) "=&f"(x)
// Not write-only: partial sums then keep their registers from one turn of a loop to the next.
#define SAGE_WgmmaValues_FLOAT(x) "+f"(x)

// Defines Wgmma(B's element type, d, a, b) for one shape, and WgmmaFirst(), which sets d where
// Wgmma() adds to it. The places of a and b follow those of d.
#define SAGE_WGMMA(kind, element, type, count, shape, tail, WRITE, READ_WRITE, a0, a1, a2, a3, b) \
  __device__ __forceinline__ void kind##First(                                                    \
      element, type(&d)[count], const std::uint32_t(&a)[4], std::uint64_t descriptor) {           \
    asm volatile("{.reg .pred add; setp.ne.b32 add, 0, 0; wgmma.mma_async.sync.aligned." shape    \
                 " {" SAGE_P##count "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " b ", add" tail ";}"   \
                 : SAGE_D##count(WRITE)                                                           \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor));                  \
  }                                                                                               \
  __device__ __forceinline__ void kind(element, type(&d)[count], const std::uint32_t(&a)[4],      \
                                       std::uint64_t descriptor) {                                \
    asm volatile("{.reg .pred add; setp.eq.b32 add, 0, 0; wgmma.mma_async.sync.aligned." shape    \
                 " {" SAGE_P##count "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " b ", add" tail ";}"   \
                 : SAGE_D##count(READ_WRITE)                                                      \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor));                  \
  }
#define SAGE_WGMMA_FLOAT(kind, element, count, shape, tail, ...)                                   \
  SAGE_WGMMA(kind, element, float, count, shape, tail, SAGE_##kind##_FLOAT, SAGE_READ_WRITE_FLOAT, \
             __VA_ARGS__)

// Scores: B is a tile of 64 keys, its rows keys; a step is 32 bytes of channels.
SAGE_WGMMA(WgmmaScores, std::int8_t, int, 32, "m64n64k32.s32.s8.s8", "", SAGE_WRITE_INT,
           SAGE_READ_WRITE_INT, "%32", "%33", "%34", "%35", "%36")
SAGE_WGMMA_FLOAT(WgmmaScores, __half, 32, "m64n64k16.f32.f16.f16", ", 1, 1, 0", "%32", "%33", "%34",
                 "%35", "%36")
SAGE_WGMMA_FLOAT(WgmmaScores, __nv_bfloat16, 32, "m64n64k16.f32.bf16.bf16", ", 1, 1, 0", "%32",
                 "%33", "%34", "%35", "%36")

// Sums of values: B's rows are keys for 16-bit elements, a step being 16 keys, and channels for
// e4m3, a step being 32 keys.
SAGE_WGMMA_FLOAT(WgmmaValues, __half, 32, "m64n64k16.f32.f16.f16", ", 1, 1, 1", "%32", "%33", "%34",
                 "%35", "%36")
SAGE_WGMMA_FLOAT(WgmmaValues, __half, 36, "m64n72k16.f32.f16.f16", ", 1, 1, 1", "%36", "%37", "%38",
                 "%39", "%40")
SAGE_WGMMA_FLOAT(WgmmaValues, __half, 64, "m64n128k16.f32.f16.f16", ", 1, 1, 1", "%64", "%65",
                 "%66", "%67", "%68")
SAGE_WGMMA_FLOAT(WgmmaValues, __nv_bfloat16, 32, "m64n64k16.f32.bf16.bf16", ", 1, 1, 1", "%32",
                 "%33", "%34", "%35", "%36")
SAGE_WGMMA_FLOAT(WgmmaValues, __nv_bfloat16, 36, "m64n72k16.f32.bf16.bf16", ", 1, 1, 1", "%36",
                 "%37", "%38", "%39", "%40")
SAGE_WGMMA_FLOAT(WgmmaValues, __nv_bfloat16, 64, "m64n128k16.f32.bf16.bf16", ", 1, 1, 1", "%64",
                 "%65", "%66", "%67", "%68")
SAGE_WGMMA_FLOAT(WgmmaValues, E4m3, 36, "m64n72k32.f32.e4m3.e4m3", ", 1, 1", "%36", "%37", "%38",
                 "%39", "%40")
SAGE_WGMMA_FLOAT(WgmmaValues, E4m3, 68, "m64n136k32.f32.e4m3.e4m3", ", 1, 1", "%68", "%69", "%70",
                 "%71", "%72")

#undef SAGE_WGMMA_FLOAT
#undef SAGE_WGMMA
#undef SAGE_WgmmaValues_FLOAT
#undef SAGE_WgmmaScores_FLOAT
#undef SAGE_WRITE_INT
#undef SAGE_READ_WRITE_FLOAT
#undef SAGE_READ_WRITE_INT
#undef SAGE_P68
#undef SAGE_P64
#undef SAGE_P36
#undef SAGE_P32
#undef SAGE_D68
#undef SAGE_D64
#undef SAGE_D36
#undef SAGE_D32
#undef SAGE_D16
#undef SAGE_D4

}  // namespace sage::cuda::ptx

#endif  // SAGE_KERNELS_CUDA_PTX_WGMMA_CUH_
