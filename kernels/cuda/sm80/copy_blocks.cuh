// Copies of key blocks from global into shared memory, and what they need after.
#ifndef SAGE_KERNELS_CUDA_SM80_COPY_BLOCKS_CUH_
#define SAGE_KERNELS_CUDA_SM80_COPY_BLOCKS_CUH_

#include <cstdint>

#include "kernels/cuda/bad_values.cuh"
#include "kernels/cuda/ptx/cp_async.cuh"
#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/sm80/storage.cuh"
#include "kernels/cuda/swizzled_tile.cuh"

namespace sage::cuda::sm80 {

// Copies rows [first_row, first_row + kRows) of a 16-bit tensor into a tile. With kWhole all of
// them exist and head_dim is the tile's; else rows at or past `rows` and channels past head_dim are
// zeros.
template <int kRows, int kRowBytes, bool kWhole>
__device__ __forceinline__ void CopyRows(std::uint32_t smem, const std::uint8_t* gmem,
                                         std::uint32_t row_stride_bytes, std::int32_t first_row,
                                         std::int32_t rows, int head_dim) {
  using Tile = SwizzledTile<kRowBytes>;
  constexpr int kRowStep = kThreads / Tile::kChunks;
  const std::uint32_t thread = ptx::ThreadIndex();
  const std::uint32_t chunk = thread % Tile::kChunks;
  const std::uint32_t thread_row = thread / Tile::kChunks;
  // Rows of a thread are a multiple of 8 apart: the swizzle is the same for all.
  const std::uint32_t target = smem + Tile::Offset(thread_row, chunk);
  const std::uint8_t* source =
      gmem + static_cast<std::uint64_t>(first_row + thread_row) * row_stride_bytes + chunk * 16;
  const std::uint32_t step_bytes = kRowStep * row_stride_bytes;
  if constexpr (kWhole) {
#pragma unroll
    for (int i = 0; i < kRows / kRowStep; ++i) {
      ptx::CopyAsync16(target + i * kRowStep * kRowBytes, source);
      source += step_bytes;
    }
  } else {
    const bool in_head = static_cast<int>(chunk) * 8 < head_dim;
#pragma unroll 1
    for (int i = 0; i < kRows / kRowStep; ++i) {
      const std::int32_t row = first_row + static_cast<std::int32_t>(thread_row) + i * kRowStep;
      const bool exists = in_head && row < rows;
      ptx::CopyAsync16OrZeros(target + i * kRowStep * kRowBytes, exists ? source : gmem, exists);
      source += step_bytes;
    }
  }
}

// What the copy of a block needs of the context. Read as a whole, and ahead of its use: one wait
// for shared memory instead of one a field.
template <typename Policy>
struct BlockSource {
  const std::uint8_t* k;
  const std::uint8_t* v;
  const float* k_scales;
  std::uint32_t k_row_stride_bytes;
  std::uint32_t v_row_stride_bytes;

  __device__ __forceinline__ void Read(const TileContext& context) {
    k = context.k;
    v = context.v;
    k_scales = context.k_scales;
    k_row_stride_bytes = context.k_row_stride_bytes;
    v_row_stride_bytes = context.v_row_stride_bytes;
  }
};

// Copies a prepared tile of kBytes, which is swizzled already.
template <int kBytes>
__device__ __forceinline__ void CopyTile(std::uint32_t smem, const std::uint8_t* gmem) {
  const std::uint32_t thread = ptx::ThreadIndex();
  const std::uint32_t target = smem + thread * 16;
  const std::uint8_t* const source = gmem + thread * 16;
#pragma unroll
  for (int i = 0; i < kBytes / (kThreads * 16); ++i) {
    ptx::CopyAsync16(target + i * kThreads * 16, source + i * kThreads * 16);
  }
}

// Starts the copy of key block `block` into `stage`. kWhole as for CopyRows().
template <bool kWhole, typename Policy>
__device__ __forceinline__ void CopyBlock(SharedStorage<Policy>& storage,
                                          const BlockSource<Policy>& source, int stage, int block) {
  const std::int32_t length_k = kWhole ? 0 : storage.context.length_k;
  const std::int32_t head_dim = kWhole ? 0 : storage.context.head_dim;
  const std::uint32_t smem_k = __cvta_generic_to_shared(storage.stages[stage].k);
  const std::uint32_t smem_v = __cvta_generic_to_shared(storage.stages[stage].v);
  if constexpr (Policy::kInt8Scores) {
    constexpr int kTileBytes = kBlockKeys * Policy::kScoreRowBytes;
    CopyTile<kTileBytes>(smem_k, source.k + static_cast<std::uint64_t>(block) * kTileBytes);
    if (threadIdx.x == 0) {
      ptx::CopyAsync4(__cvta_generic_to_shared(&storage.k_scale[stage]), source.k_scales + block);
    }
  } else {
    CopyRows<kBlockKeys, Policy::kScoreRowBytes, kWhole>(
        smem_k, source.k, source.k_row_stride_bytes, block * kBlockKeys, length_k, head_dim);
  }
  if constexpr (Policy::kE4m3Values) {
    CopyTile<Policy::kValueTileBytes>(
        smem_v, source.v + static_cast<std::uint64_t>(block) * Policy::kValueTileBytes);
  } else {
    CopyRows<kBlockKeys, Policy::kValueRowBytes, kWhole>(
        smem_v, source.v, source.v_row_stride_bytes, block * kBlockKeys, length_k, head_dim);
  }
}

// Sees to the values of a partial block that this thread copied.
template <typename Policy>
__device__ __forceinline__ void ContainBadValues(SharedStorage<Policy>& storage, int stage, int i) {
  using Tile = SwizzledTile<Policy::kValueRowBytes>;
  constexpr int kRowStep = kThreads / Tile::kChunks;
  const std::uint32_t thread = ptx::ThreadIndex();
  const std::uint32_t first = thread / Tile::kChunks;
  // A prepared tile was copied in the order in which it lies.
  const std::uint32_t chunk =
      thread % Tile::kChunks ^ (Policy::kE4m3Values ? Tile::Twist(first) : 0);
  std::uint8_t* const base = storage.stages[stage].v + Tile::Offset(first, chunk);
  std::uint32_t* const bad_keys = storage.bad_keys[i % kBadKeySlots];
#pragma unroll 1
  for (int row = 0; row < Policy::kValueTileBytes / Policy::kValueRowBytes; row += kRowStep) {
    std::uint8_t* const words = base + row * Policy::kValueRowBytes;
    if constexpr (Policy::kE4m3Values) {
      // A row is a channel, a chunk 16 keys of it.
      ContainBadE4m3(reinterpret_cast<std::uint32_t*>(words), chunk * 16, bad_keys);
    } else {
      ContainBadElements<typename Policy::Element>(reinterpret_cast<uint4*>(words), first + row,
                                                   bad_keys);
    }
  }
}

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_COPY_BLOCKS_CUH_
