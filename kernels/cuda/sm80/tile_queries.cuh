// The prologue of INT8 scores: the queries of a tile in shared memory, 32 rows a warp.
#ifndef SAGE_KERNELS_CUDA_SM80_TILE_QUERIES_CUH_
#define SAGE_KERNELS_CUDA_SM80_TILE_QUERIES_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/queries.cuh"
#include "kernels/cuda/sage1.cuh"
#include "kernels/cuda/sm80/policy.cuh"
#include "kernels/cuda/sm80/storage.cuh"
#include "kernels/cuda/swizzled_tile.cuh"

namespace sage::cuda::sm80 {

inline constexpr int kQueryTurns = kWarpRows / 4;

// The bytes of channels [part * kHeadDim / 8, + kHeadDim / 8), where ldmatrix looks for them.
template <typename Policy>
__device__ __forceinline__ void StoreQueryBytes(SharedStorage<Policy>& storage, int row, int part,
                                                const std::uint32_t* words) {
  using Tile = SwizzledTile<Policy::kHeadDim>;
  if constexpr (Policy::kHeadDim == 128) {
    *reinterpret_cast<uint4*>(storage.q() + Tile::Offset(row, part)) =
        make_uint4(words[0], words[1], words[2], words[3]);
  } else {
    *reinterpret_cast<uint2*>(storage.q() + Tile::Offset(row, part / 2) + part % 2 * 8) =
        make_uint2(words[0], words[1]);
  }
}

// The scale of a row; leaves what its lse is to have added in the end in the place of the lse.
template <typename Policy>
__device__ __forceinline__ void StoreQueryScale(SharedStorage<Policy>& storage, int row,
                                                float scale, float dot) {
  const TileContext& context = storage.context;
  const DeviceTask& task = *context.task;
  storage.score_unit[row] = task.softmax_scale * kLog2E * scale;
  if (task.lse != nullptr && context.first_row + row < task.q_rows) {
    task.lse[LseIndex(context, row)] = task.softmax_scale * dot;
  }
}

// Rows [first_row, first_row + 4 * kTurns) of the tile, which one warp quantises, a scale a row;
// for the lse also q . c.
template <typename Policy>
class QueryRows {
  using Element = typename Policy::Element;
  using Share = QueryShare<Policy::kHeadDim, kQueryTurns>;
  static constexpr int kTurns = kQueryTurns;
  static constexpr int kVectors = Share::kChannels / 8;

 public:
  // Reads the rows, and waits for nothing.
  __device__ __forceinline__ void Load(const TileContext& context, int first_row) {
    const Share share(ptx::ThreadIndex() % 32, first_row);
    const DeviceTask& task = *context.task;
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
#pragma unroll
      for (int j = 0; j < kVectors; ++j) {
        words_[i][j] = make_uint4(0, 0, 0, 0);
        const int channel = share.part * Share::kChannels + j * 8;
        if (context.first_row + share.row(i) < task.rows_valid && channel < context.head_dim) {
          words_[i][j] = __ldg(reinterpret_cast<const uint4*>(
              context.q + share.row(i) * task.q.row_stride_bytes + channel * 2));
        }
      }
    }
  }

  __device__ __forceinline__ void Quantize(SharedStorage<Policy>& storage, int first_row) const {
    const TileContext& context = storage.context;
    const Share share(ptx::ThreadIndex() % 32, first_row);
    const bool wants_lse = context.task->lse != nullptr;
    // Each lane is left with the largest magnitude and q . c of the row of turn `part`.
    std::uint32_t row_max_bits = 0;
    float row_dot = 0.0F;
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      std::uint32_t max_bits = 0;
#pragma unroll
      for (int j = 0; j < kVectors; ++j) {
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const float2 pair = Pair(i, j, p);
          max_bits = max(max_bits, max(MagnitudeBits(pair.x), MagnitudeBits(pair.y)));
        }
      }
#pragma unroll
      for (int lane = 1; lane < Share::kLanesPerRow; lane *= 2) {
        max_bits = max(max_bits, __shfl_xor_sync(0xffffffffU, max_bits, lane));
      }
      float dot = 0.0F;
      if (wants_lse) {
        dot = SumOfRow(
            LaneDot<Element>(words_[i], context.smoothing + share.part * Share::kChannels));
      }
      if (share.part == i) {
        row_max_bits = max_bits;
        row_dot = dot;
      }
    }
    const GroupScale group = MakeGroupScale(row_max_bits);
    if (share.part < kTurns) StoreQueryScale(storage, share.row(share.part), group.scale, row_dot);

#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const float factor = __shfl_sync(0xffffffffU, group.factor, i, Share::kLanesPerRow);
      std::uint32_t bytes[Share::kChannels / 4];
#pragma unroll
      for (int w = 0; w < Share::kChannels / 4; ++w) {
        const float2 first = Pair(i, w / 2, w % 2 * 2);
        const float2 second = Pair(i, w / 2, w % 2 * 2 + 1);
        bytes[w] = QuantizeWord(first.x, first.y, second.x, second.y, factor);
      }
      StoreQueryBytes(storage, share.row(i), share.part, bytes);
    }
  }

 private:
  // Two channels of a lane in turn i.
  __device__ __forceinline__ float2 Pair(int i, int j, int p) const {
    const uint4& vector = words_[i][j];
    const std::uint32_t pairs[4] = {vector.x, vector.y, vector.z, vector.w};
    return Widen<Element>(pairs[p]);
  }

  uint4 words_[kTurns][kVectors];
};

// The same for queries that come as `sage1` int8, with their scales and q . c.
template <typename Policy>
__device__ __forceinline__ void TakeGivenQueries(SharedStorage<Policy>& storage, int first_row) {
  using Share = QueryShare<Policy::kHeadDim, kQueryTurns>;
  const TileContext& context = storage.context;
  constexpr int kWords = Share::kChannels / 4;
  const Share share(ptx::ThreadIndex() % 32, first_row);
  const DeviceTask& task = *context.task;
#pragma unroll
  for (int i = 0; i < kQueryTurns; ++i) {
    std::uint32_t words[kWords] = {};
    const int channel = share.part * Share::kChannels;
    const std::uint8_t* const source = context.q + share.row(i) * task.q.row_stride_bytes + channel;
#pragma unroll
    for (int j = 0; j < kWords; j += 2) {
      if (context.first_row + share.row(i) < task.rows_valid &&
          channel + j * 4 < context.head_dim) {
        const uint2 bytes = __ldg(reinterpret_cast<const uint2*>(source + j * 4));
        words[j] = bytes.x;
        words[j + 1] = bytes.y;
      }
    }
    StoreQueryBytes(storage, share.row(i), share.part, words);
  }
  if (share.part >= kQueryTurns) return;
  const int row = share.row(share.part);
  const std::int64_t index = context.head * task.q_scales_head_stride + context.first_row + row;
  const bool exists = context.first_row + row < task.rows_valid;
  StoreQueryScale(storage, row, exists ? __ldg(task.q_scales + index) : 0.0F,
                  exists && task.q_dots != nullptr ? __ldg(task.q_dots + index) : 0.0F);
}

template <typename Policy>
__device__ __forceinline__ void LoadTileQueries(SharedStorage<Policy>& storage) {
  const int first_row = ptx::ThreadIndex() / 32 * kWarpRows;
  if (storage.context.task->q_scales == nullptr) {
    QueryRows<Policy> rows;
    rows.Load(storage.context, first_row);
    rows.Quantize(storage, first_row);
  } else {
    TakeGivenQueries(storage, first_row);
  }
}

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_TILE_QUERIES_CUH_
