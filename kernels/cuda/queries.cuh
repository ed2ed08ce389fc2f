// The queries of a tile as int8: quantised by spec `sage1`, or taken as they were given.
#ifndef SAGE_KERNELS_CUDA_QUERIES_CUH_
#define SAGE_KERNELS_CUDA_QUERIES_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/sage1.cuh"
#include "kernels/cuda/swizzled_tile.cuh"
#include "kernels/cuda/tile_context.cuh"

namespace sage::cuda {

// How a warp shares 4 * kTurns rows of a tile: eight lanes a row, four rows a turn.
template <int kHeadDim, int kTurnsT>
struct QueryShare {
  static constexpr int kLanesPerRow = 8;
  static constexpr int kChannels = kHeadDim / kLanesPerRow;  // of a lane: 8 or 16
  static constexpr int kRowsAtOnce = 32 / kLanesPerRow;
  static constexpr int kTurns = kTurnsT;
  static_assert(kTurns <= kLanesPerRow, "a lane of a row sees to the scale of one turn");

  int part;       // of a row's channels
  int first_row;  // of the tile, in turn 0
  __device__ __forceinline__ QueryShare(int lane, int first)
      : part(lane % kLanesPerRow), first_row(first + lane / kLanesPerRow) {}
  __device__ __forceinline__ int row(int turn) const { return first_row + turn * kRowsAtOnce; }
};

// What a lane has of q . c of its row: runs of eight channels, added in order.
template <typename Element, int kVectors>
__device__ __forceinline__ float LaneDot(const uint4 (&words)[kVectors], const float* smoothing) {
  float dot = 0.0F;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const std::uint32_t pairs[4] = {words[j].x, words[j].y, words[j].z, words[j].w};
    float run = 0.0F;
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const float2 q = Widen<Element>(pairs[p]);
      const float2 c = __ldg(reinterpret_cast<const float2*>(smoothing + j * 8) + p);
      run = __fadd_rn(run, __fmul_rn(q.x, c.x));
      run = __fadd_rn(run, __fmul_rn(q.y, c.y));
    }
    dot = j == 0 ? run : __fadd_rn(dot, run);
  }
  return dot;
}
// Their sum over the eight lanes of a row: q . c with the bits of QueryDotSmoothing() of
// kernels/quantize.h.
__device__ __forceinline__ float SumOfRow(float lane_dot) {
#pragma unroll
  for (int lane = 1; lane < 8; lane *= 2) {
    lane_dot = __fadd_rn(lane_dot, __shfl_xor_sync(0xffffffffU, lane_dot, lane));
  }
  return lane_dot;
}

// Sinks take what becomes of a row of the tile:
//   Store(row, part, words)       the bytes of channels [part * kHeadDim / 8, + kHeadDim / 8)
//   StoreScale(row, scale, dot)   its scale, and q . c for the lse of unsmoothed scores

// Rows [first_row, first_row + 4 * kTurns) of the tile, which one warp quantises, a scale a row;
// for the lse also q . c.
template <typename Element, int kHeadDim, int kTurns>
class QueryRows {
 public:
  using Share = QueryShare<kHeadDim, kTurns>;

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

  template <typename Sink>
  __device__ __forceinline__ void Quantize(const TileContext& context, int first_row,
                                           Sink& sink) const {
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
    if (share.part < kTurns) sink.StoreScale(share.row(share.part), group.scale, row_dot);

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
      sink.Store(share.row(i), share.part, bytes);
    }
  }

 private:
  static constexpr int kVectors = Share::kChannels / 8;

  // Two channels of a lane in turn i.
  __device__ __forceinline__ float2 Pair(int i, int j, int p) const {
    const uint4& vector = words_[i][j];
    const std::uint32_t pairs[4] = {vector.x, vector.y, vector.z, vector.w};
    return Widen<Element>(pairs[p]);
  }

  uint4 words_[kTurns][kVectors];
};

// The same for queries that come as `sage1` int8, with their scales and q . c.
template <int kHeadDim, int kTurns, typename Sink>
__device__ __forceinline__ void TakeGivenQueries(const TileContext& context, int first_row,
                                                 Sink& sink) {
  using Share = QueryShare<kHeadDim, kTurns>;
  constexpr int kWords = Share::kChannels / 4;
  const Share share(ptx::ThreadIndex() % 32, first_row);
  const DeviceTask& task = *context.task;
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
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
    sink.Store(share.row(i), share.part, words);
  }
  if (share.part >= kTurns) return;
  const int row = share.row(share.part);
  const std::int64_t index = context.head * task.q_scales_head_stride + context.first_row + row;
  const bool exists = context.first_row + row < task.rows_valid;
  sink.StoreScale(row, exists ? __ldg(task.q_scales + index) : 0.0F,
                  exists && task.q_dots != nullptr ? __ldg(task.q_dots + index) : 0.0F);
}

// Bytes of a lane where ldmatrix and wgmma look for them: a tile of int8 queries.
template <int kHeadDim>
__device__ __forceinline__ void StoreQueryBytes(std::uint8_t* tile, int row, int part,
                                                const std::uint32_t* words) {
  using Tile = SwizzledTile<kHeadDim>;
  if constexpr (kHeadDim == 128) {
    *reinterpret_cast<uint4*>(tile + Tile::Offset(row, part)) =
        make_uint4(words[0], words[1], words[2], words[3]);
  } else {
    *reinterpret_cast<uint2*>(tile + Tile::Offset(row, part / 2) + part % 2 * 8) =
        make_uint2(words[0], words[1]);
  }
}

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_QUERIES_CUH_
