// The products of a warpgroup: scores q k, and sums p v.
#ifndef SAGE_KERNELS_CUDA_SM90_PRODUCTS_CUH_
#define SAGE_KERNELS_CUDA_SM90_PRODUCTS_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/mma.cuh"
#include "kernels/cuda/ptx/wgmma.cuh"
#include "kernels/cuda/sm90/queries.cuh"
#include "kernels/cuda/sm90/storage.cuh"
#include "kernels/cuda/swizzled_tile.cuh"

namespace sage::cuda::sm90 {

// How K lies in shared memory: tiles of 64 keys whose rows are 64 or 128 bytes of channels.
template <typename Policy>
struct KeyTiles {
  static constexpr int kRowBytes = Policy::kScoreRowBytes == 64 ? 64 : 128;
  static constexpr int kSteps = kRowBytes / 32;  // of a tile
  static constexpr int kBytes = kBlockKeys * kRowBytes;
};

// Issues the scores of a stage as a group.
template <typename Policy>
__device__ __forceinline__ void MultiplyKeys(
    SharedStorage<Policy>& storage, const TileQueries<Policy>& queries, int warpgroup,
    const RingPlace<Policy::kStages>& stage,
    typename Policy::Score (&scores)[Policy::kTurnBlocks][Policy::kBlockScores]) {
  using Tiles = KeyTiles<Policy>;
  const std::uint64_t descriptor =
      ptx::MatrixDescriptor(__cvta_generic_to_shared(storage.k[0]), 16, 8 * Tiles::kRowBytes,
                            Tiles::kRowBytes == 64 ? ptx::kSwizzle64 : ptx::kSwizzle128) +
      ptx::DescriptorStep(stage.index * static_cast<std::uint32_t>(sizeof(storage.k[0])));
  ptx::WgmmaFence();
#pragma unroll
  for (int block = 0; block < Policy::kTurnBlocks; ++block) {
#pragma unroll
    for (int step = 0; step < Policy::kScoreSteps; ++step) {
      const std::uint64_t at =
          descriptor +
          ptx::DescriptorStep(block * Policy::kKeyTileBytes + step / Tiles::kSteps * Tiles::kBytes +
                              step % Tiles::kSteps * 32);
      const auto& q = queries.Operand(storage, warpgroup, step);
      if (step == 0) {
        ptx::WgmmaScoresFirst(typename Policy::ScoreElement{}, scores[block], q, at);
      } else {
        ptx::WgmmaScores(typename Policy::ScoreElement{}, scores[block], q, at);
      }
    }
  }
  ptx::WgmmaCommit();
}

// The same by one warp alone, of its rows from `first_row` of the tile on.
template <typename Policy>
__device__ __forceinline__ void MultiplyAgain(
    const SharedStorage<Policy>& storage, const TileQueries<Policy>& queries, int first_row,
    const RingPlace<Policy::kStages>& stage,
    typename Policy::Score (&scores)[Policy::kTurnBlocks][Policy::kBlockScores]) {
  using Tiles = KeyTiles<Policy>;
  using Tile = SwizzledTile<Tiles::kRowBytes>;
  constexpr int kGroups = kBlockKeys / 8;  // of keys, of a block
  const int lane = ptx::ThreadIndex() % 32;
#pragma unroll
  for (int block = 0; block < Policy::kTurnBlocks; ++block) {
#pragma unroll
    for (int i = 0; i < Policy::kBlockScores; ++i) scores[block][i] = 0;
  }
#pragma unroll
  for (int step = 0; step < Policy::kScoreSteps; ++step) {
    std::uint32_t q[4];
    queries.WarpOperand(storage, first_row, step, q);
#pragma unroll
    for (int j = 0; j < Policy::kTurnBlocks * kGroups; ++j) {
      const int key = j % kGroups * 8 + lane / 4;
      const std::uint8_t* const tile =
          storage.k[stage.index][j / kGroups] + step / Tiles::kSteps * Tiles::kBytes + lane % 4 * 4;
      std::uint32_t k[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        k[half] = *reinterpret_cast<const std::uint32_t*>(
            tile + Tile::Offset(key, step % Tiles::kSteps * 2 + half));
      }
      auto& sums =
          reinterpret_cast<typename Policy::Score(&)[4]>(scores[j / kGroups][j % kGroups * 4]);
      if constexpr (Policy::kInt8Scores) {
        ptx::MmaInt8(sums, q, k[0], k[1], sums);
      } else {
        ptx::MmaFloat16<typename Policy::Element>(sums, q, k[0], k[1], sums);
      }
    }
  }
}

// Issues p v of a stage as a group, of all channels or of part kPart of them. Adds to `sums`, or
// for e4m3 sets them.
template <int kPart, typename Policy, int kSums>
__device__ __forceinline__ void MultiplyValues(SharedStorage<Policy>& storage,
                                               const RingPlace<Policy::kStages>& stage,
                                               const std::uint32_t (&p)[Policy::kValueSteps][4],
                                               float (&sums)[kSums]) {
  constexpr int kStepBytes = Policy::kE4m3Values ? 32 : 16 * kBoxRowBytes;
  constexpr int kPartBytes = Policy::kE4m3Values ? 64 * kBlockKeys : 0;
  const std::uint32_t smem = __cvta_generic_to_shared(storage.v[0]);
  const std::uint64_t descriptor =
      (Policy::kE4m3Values
           ? ptx::MatrixDescriptor(smem, 16, 8 * kBlockKeys, ptx::kSwizzle64)
           : ptx::MatrixDescriptor(smem, kBoxBytes, 8 * kBoxRowBytes, ptx::kSwizzle128)) +
      ptx::DescriptorStep(stage.index * static_cast<std::uint32_t>(sizeof(storage.v[0])));
  ptx::WgmmaFence();
#pragma unroll
  for (int step = 0; step < Policy::kValueSteps; ++step) {
    const std::uint64_t at =
        descriptor +
        ptx::DescriptorStep(step / Policy::kBlockSteps * Policy::kValueTileBytes +
                            step % Policy::kBlockSteps * kStepBytes + kPart * kPartBytes);
    if constexpr (Policy::kE4m3Values) {
      ptx::WgmmaValues(ptx::E4m3{}, sums, p[step], at, step > 0);
    } else {
      ptx::WgmmaValues(typename Policy::Element{}, sums, p[step], at, 1);
    }
  }
  ptx::WgmmaCommit();
}

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_PRODUCTS_CUH_
