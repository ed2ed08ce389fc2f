// Matrix products of a warpgroup (wgmma, sm_90a): D[64, N] += A[64, K] B[K, N], D in registers, A
// there or in shared memory, B in shared memory. In registers they lie as those of mma.sync do,
// warp w of the four having rows [16 w, 16 w + 16).
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

// Describes an operand in shared memory at `smem`. Offsets are in bytes, multiples of 16:
// `leading` from one tile of columns to the next where B is not transposed, `stride` from eight
// rows of a tile to the next eight.
__device__ __forceinline__ constexpr std::uint64_t MatrixDescriptor(std::uint32_t smem,
                                                                    std::uint32_t leading,
                                                                    std::uint32_t stride,
                                                                    std::uint64_t swizzle) {
  return static_cast<std::uint64_t>(smem >> 4 | leading >> 4 << 16) |
         static_cast<std::uint64_t>(stride >> 4) << 32 | swizzle;
}
// What is added to a descriptor for what lies `bytes` further on: addresses never carry.
__device__ __forceinline__ constexpr std::uint64_t DescriptorStep(std::uint32_t bytes) {
  return bytes >> 4;
}

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
#define SAGE_WRITE_FLOAT(x) "=&f"(x)

// One product. `d_places` are the places of its `count` sums, `a0` to `add` those of the operands.
#define SAGE_WGMMA(shape, tail, d_places, a0, a1, a2, a3, b, add)                       \
  "{.reg .pred adds; setp.ne.b32 adds, " add ", 0; wgmma.mma_async.sync.aligned." shape \
  " {" d_places "}, {" a0 ", " a1 ", " a2 ", " a3 "}, " b ", adds" tail ";}"

// Scores: B is a tile of 64 keys, its rows keys; a step is 32 bytes of channels. WgmmaScoresFirst()
// sets d, WgmmaScores() adds to it.
#define SAGE_SCORES(element, type, TYPE, shape, tail)                                             \
  __device__ __forceinline__ void WgmmaScoresFirst(element, type(&d)[32],                         \
                                                   const std::uint32_t(&a)[4], std::uint64_t b) { \
    asm volatile(SAGE_WGMMA(shape, tail, SAGE_P32, "%32", "%33", "%34", "%35", "%36", "%37")      \
                 : SAGE_D32(SAGE_WRITE_##TYPE)                                                    \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(0));                   \
  }                                                                                               \
  __device__ __forceinline__ void WgmmaScores(element, type(&d)[32], const std::uint32_t(&a)[4],  \
                                              std::uint64_t b) {                                  \
    asm volatile(SAGE_WGMMA(shape, tail, SAGE_P32, "%32", "%33", "%34", "%35", "%36", "%37")      \
                 : SAGE_D32(SAGE_READ_WRITE_##TYPE)                                               \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(1));                   \
  }
// The same with A in shared memory, described as B is.
#define SAGE_SCORES_OF_TILE(name, CONSTRAINT, add)                                          \
  __device__ __forceinline__ void name(std::int8_t, int(&d)[32], std::uint64_t a,           \
                                       std::uint64_t b) {                                   \
    asm volatile(                                                                           \
        "{.reg .pred adds; setp.ne.b32 adds, %34, 0; "                                      \
        "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {" SAGE_P32 "}, %32, %33, adds;}" \
        : SAGE_D32(CONSTRAINT)                                                              \
        : "l"(a), "l"(b), "n"(add));                                                        \
  }
SAGE_SCORES_OF_TILE(WgmmaScoresFirst, SAGE_WRITE_INT, 0)
SAGE_SCORES_OF_TILE(WgmmaScores, SAGE_READ_WRITE_INT, 1)
SAGE_SCORES(std::int8_t, int, INT, "m64n64k32.s32.s8.s8", "")
SAGE_SCORES(__half, float, FLOAT, "m64n64k16.f32.f16.f16", ", 1, 1, 0")
SAGE_SCORES(__nv_bfloat16, float, FLOAT, "m64n64k16.f32.bf16.bf16", ", 1, 1, 0")

// Sums of values: B's rows are keys for 16-bit elements, a step being 16 keys, and channels for
// e4m3, a step being 32 keys. Adds to d, or sets it where `add` is 0.
#define SAGE_VALUES(element, count, shape, tail, a0, a1, a2, a3, b_place, add_place)        \
  __device__ __forceinline__ void WgmmaValues(                                              \
      element, float(&d)[count], const std::uint32_t(&a)[4], std::uint64_t b, int add) {    \
    asm volatile(SAGE_WGMMA(shape, tail, SAGE_P##count, a0, a1, a2, a3, b_place, add_place) \
                 : SAGE_D##count(SAGE_READ_WRITE_FLOAT)                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));           \
  }
SAGE_VALUES(__half, 32, "m64n64k16.f32.f16.f16", ", 1, 1, 1", "%32", "%33", "%34", "%35", "%36",
            "%37")
SAGE_VALUES(__half, 64, "m64n128k16.f32.f16.f16", ", 1, 1, 1", "%64", "%65", "%66", "%67", "%68",
            "%69")
SAGE_VALUES(__nv_bfloat16, 32, "m64n64k16.f32.bf16.bf16", ", 1, 1, 1", "%32", "%33", "%34", "%35",
            "%36", "%37")
SAGE_VALUES(__nv_bfloat16, 64, "m64n128k16.f32.bf16.bf16", ", 1, 1, 1", "%64", "%65", "%66", "%67",
            "%68", "%69")
SAGE_VALUES(E4m3, 32, "m64n64k32.f32.e4m3.e4m3", ", 1, 1", "%32", "%33", "%34", "%35", "%36", "%37")
SAGE_VALUES(E4m3, 36, "m64n72k32.f32.e4m3.e4m3", ", 1, 1", "%36", "%37", "%38", "%39", "%40", "%41")
SAGE_VALUES(E4m3, 68, "m64n136k32.f32.e4m3.e4m3", ", 1, 1", "%68", "%69", "%70", "%71", "%72",
            "%73")

#undef SAGE_VALUES
#undef SAGE_SCORES_OF_TILE
#undef SAGE_SCORES
#undef SAGE_WGMMA
#undef SAGE_WRITE_FLOAT
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
