// The prologue of INT8 scores: the queries of a tile as int8 in shared memory.
#ifndef SAGE_KERNELS_CUDA_SM80_QUERIES_CUH_
#define SAGE_KERNELS_CUDA_SM80_QUERIES_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/sage1.cuh"
#include "kernels/cuda/sm80/policy.cuh"
#include "kernels/cuda/sm80/storage.cuh"
#include "kernels/cuda/sm80/swizzled_tile.cuh"

namespace sage::cuda::sm80 {

// How a warp shares its 32 rows: eight lanes a row, four rows at once, eight turns.
template <typename Policy>
struct QueryShare {
  static constexpr int kLanesPerRow = 8;
  static constexpr int kChannels = Policy::kHeadDim / kLanesPerRow;  // of a lane: 8 or 16
  static constexpr int kRowsAtOnce = 32 / kLanesPerRow;
  static constexpr int kTurns = kWarpRows / kRowsAtOnce;
  static_assert(kTurns == kLanesPerRow, "each lane sees to the scale of one row");

  int part;       // of a row's channels
  int first_row;  // of the tile, in turn 0
  explicit __device__ __forceinline__ QueryShare(int thread)
      : part(thread % kLanesPerRow),
        first_row(thread / 32 * kWarpRows + thread % 32 / kLanesPerRow) {}
  __device__ __forceinline__ int row(int turn) const { return first_row + turn * kRowsAtOnce; }
};

// Leaves the int8 channels of this lane where the mainloop reads Q.
template <typename Policy>
__device__ __forceinline__ void StoreQueries(SharedStorage<Policy>& storage, int row, int part,
                                             const std::uint32_t* words) {
  using Tile = SwizzledTile<Policy::kScoreRowBytes>;
  if constexpr (QueryShare<Policy>::kChannels == 16) {
    *reinterpret_cast<uint4*>(storage.q() + Tile::Offset(row, part)) =
        make_uint4(words[0], words[1], words[2], words[3]);
  } else {
    *reinterpret_cast<uint2*>(storage.q() + Tile::Offset(row, part / 2) + part % 2 * 8) =
        make_uint2(words[0], words[1]);
  }
}

// Leaves the scale of a row for the mainloop, and what its lse is to have added in the end: until
// then it waits in the place of the lse.
template <typename Policy>
__device__ __forceinline__ void StoreScale(SharedStorage<Policy>& storage, int row, float scale,
                                           float dot) {
  const TileContext& context = storage.context;
  const DeviceTask& task = *context.task;
  storage.score_unit[row] = task.softmax_scale * kLog2E * scale;
  if (task.lse != nullptr && context.first_row + row < task.q_rows) {
    task.lse[LseIndex(context, row)] = task.softmax_scale * dot;
  }
}

// Quantises the 32 query rows of this warp by spec `sage1`, a scale a row; for the lse of
// unsmoothed scores also q . c, with the bits of QueryDotSmoothing() of kernels/quantize.h.
template <typename Policy>
__device__ __forceinline__ void QuantizeQueries(SharedStorage<Policy>& storage) {
  using Share = QueryShare<Policy>;
  using Element = typename Policy::Element;
  constexpr int kVectors = Share::kChannels / 8;
  const int thread = ptx::ThreadIndex();
  const Share share(thread);
  const TileContext& context = storage.context;
  const DeviceTask& task = *context.task;
  uint4 words[Share::kTurns][kVectors];  // everything is on its way before the first is looked at
#pragma unroll
  for (int i = 0; i < Share::kTurns; ++i) {
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      words[i][j] = make_uint4(0, 0, 0, 0);
      const int channel = share.part * Share::kChannels + j * 8;
      if (context.first_row + share.row(i) < task.rows_valid && channel < context.head_dim) {
        words[i][j] = __ldg(reinterpret_cast<const uint4*>(
            context.q + share.row(i) * task.q.row_stride_bytes + channel * 2));
      }
    }
  }
  const auto pair_of = [&](int i, int j, int p) {
    const std::uint32_t pairs[4] = {words[i][j].x, words[i][j].y, words[i][j].z, words[i][j].w};
    return Widen<Element>(pairs[p]);
  };

  // Each lane is left with the largest magnitude and q . c of the row of turn `part`.
  std::uint32_t row_max_bits = 0;
  float row_dot = 0.0F;
#pragma unroll
  for (int i = 0; i < Share::kTurns; ++i) {
    std::uint32_t max_bits = 0;
    float dot = 0.0F;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      float run = 0.0F;  // of eight channels
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const float2 pair = pair_of(i, j, p);
        max_bits = max(max_bits, max(MagnitudeBits(pair.x), MagnitudeBits(pair.y)));
        if (task.lse != nullptr) {
          const float2 c = __ldg(reinterpret_cast<const float2*>(
                                     context.smoothing + share.part * Share::kChannels + j * 8) +
                                 p);
          run = __fadd_rn(run, __fmul_rn(pair.x, c.x));
          run = __fadd_rn(run, __fmul_rn(pair.y, c.y));
        }
      }
      dot = j == 0 ? run : __fadd_rn(dot, run);
    }
#pragma unroll
    for (int lane = 1; lane < Share::kLanesPerRow; lane *= 2) {
      max_bits = max(max_bits, __shfl_xor_sync(0xffffffffU, max_bits, lane));
      dot = __fadd_rn(dot, __shfl_xor_sync(0xffffffffU, dot, lane));
    }
    if (share.part == i) {
      row_max_bits = max_bits;
      row_dot = dot;
    }
  }
  const GroupScale group = MakeGroupScale(row_max_bits);
  StoreScale(storage, share.row(share.part), group.scale, row_dot);

#pragma unroll
  for (int i = 0; i < Share::kTurns; ++i) {
    const float factor = __shfl_sync(0xffffffffU, group.factor, i, Share::kLanesPerRow);
    std::uint32_t bytes[Share::kChannels / 4];
#pragma unroll
    for (int w = 0; w < Share::kChannels / 4; ++w) {
      const float2 first = pair_of(i, w / 2, w % 2 * 2);
      const float2 second = pair_of(i, w / 2, w % 2 * 2 + 1);
      bytes[w] = QuantizeWord(first.x, first.y, second.x, second.y, factor);
    }
    StoreQueries(storage, share.row(i), share.part, bytes);
  }
}

// The same for queries that come as `sage1` int8, with their scales and q . c.
template <typename Policy>
__device__ __forceinline__ void TakeGivenQueries(SharedStorage<Policy>& storage) {
  using Share = QueryShare<Policy>;
  constexpr int kWords = Share::kChannels / 4;
  const int thread = ptx::ThreadIndex();
  const Share share(thread);
  const TileContext& context = storage.context;
  const DeviceTask& task = *context.task;
#pragma unroll
  for (int i = 0; i < Share::kTurns; ++i) {
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
    StoreQueries(storage, share.row(i), share.part, words);
  }
  const int row = share.row(share.part);
  const std::int64_t index = context.head * task.q_scales_head_stride + context.first_row + row;
  const bool exists = context.first_row + row < task.rows_valid;
  StoreScale(storage, row, exists ? __ldg(task.q_scales + index) : 0.0F,
             exists && task.q_dots != nullptr ? __ldg(task.q_dots + index) : 0.0F);
}

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_QUERIES_CUH_
