// The queries of a tile: copied into shared memory as they are, an item ahead, and made operands of
// the scores by the consumers, each warp its own rows.
#ifndef SAGE_KERNELS_CUDA_SM90_QUERIES_CUH_
#define SAGE_KERNELS_CUDA_SM90_QUERIES_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/bulk_copy.cuh"
#include "kernels/cuda/ptx/cp_async.cuh"
#include "kernels/cuda/ptx/ldmatrix.cuh"
#include "kernels/cuda/ptx/warpgroup.cuh"
#include "kernels/cuda/ptx/wgmma.cuh"
#include "kernels/cuda/queries.cuh"
#include "kernels/cuda/sm90/storage.cuh"
#include "kernels/cuda/swizzled_tile.cuh"

namespace sage::cuda::sm90 {

// One warp of kQueryWarps: starts the copies of its rows of a tile, zeros where there is nothing.
template <typename Policy, int kElementBytes>
__device__ __forceinline__ void CopyQueries(SharedStorage<Policy>& storage,
                                            const ItemContext& context, int which) {
  constexpr int kPieces = Policy::kHeadDim / 8;
  const DeviceTask& task = *context.task;
  const int lane = threadIdx.x % 32;
  const int channel = lane % kPieces * 8;
  const std::uint8_t* const source = context.q + channel * kElementBytes;
  const std::uint32_t target = __cvta_generic_to_shared(storage.q_rows) + channel * kElementBytes;
  const std::int64_t rows_left = task.rows_valid - context.first_row;
#pragma unroll 4
  for (int row = which * kQueryRows + lane / kPieces; row < (which + 1) * kQueryRows;
       row += 32 / kPieces) {
    const bool exists = row < rows_left && channel < context.head_dim;
    ptx::CopyAsyncOrZeros<8 * kElementBytes>(target + row * Policy::kQueryPitch,
                                             source + row * task.q.row_stride_bytes, exists);
  }
  if constexpr (kElementBytes == 1) {
    const float* const scales =
        task.q_scales + context.head * task.q_scales_head_stride + context.first_row;
    for (int row = which * kQueryRows + lane; row < (which + 1) * kQueryRows; row += 32) {
      ptx::CopyAsyncOrZeros<4>(__cvta_generic_to_shared(storage.q_scales + row), scales + row,
                               row < rows_left);
    }
  }
}

// Warp `which` of kQueryWarps: its share of every item.
template <typename Policy>
__device__ __forceinline__ void FetchQueries(SharedStorage<Policy>& storage, int which) {
  RingPlace<kContexts> item;
  RingPlace<1> place;
  for (;; item.Advance(), place.Advance()) {
    ptx::Wait(&storage.context_full[item.index], item.parity);
    const ItemContext& context = storage.contexts[item.index];
    if (context.total == kNoMoreWork) return;
    ptx::Wait(&storage.query_empty, place.parity ^ 1);
    if (Policy::kInt8Scores && context.quantized_queries) {
      CopyQueries<Policy, 1>(storage, context, which);
    } else {
      CopyQueries<Policy, 2>(storage, context, which);
    }
    ptx::ArriveAfterCopies(&storage.query_full);
    ptx::Arrive(&storage.context_empty[item.index]);
  }
}

// The A operands of a warpgroup's scores. Threads have of rows t / 4 and t / 4 + 8 of a warp, in
// every step of 32 bytes, those at 4 (t % 4) and 16 + 4 (t % 4).
template <typename Policy>
class TileQueries {
 public:
  // Takes what has been copied. The queries' place is free afterwards.
  __device__ __forceinline__ void Take(SharedStorage<Policy>& storage, const ItemContext& context,
                                       int warpgroup) {
    const int lane = ptx::ThreadIndex() % 32;
    const int first_row = warpgroup * kConsumerRows + ptx::ThreadIndex() % 128 / 32 * 16;
    std::uint32_t operands[Policy::kScoreSteps][4];
    if constexpr (Policy::kInt8Scores) {
      const int row = first_row + lane / 4;
      float scales[2];
      if (context.quantized_queries) {
        TakeGivenRows(storage, row, operands, scales);
      } else {
        QuantizeRows(storage, row, operands, scales);
      }
      unit[0] = context.softmax_scale * kLog2E * scales[0];
      unit[1] = context.softmax_scale * kLog2E * scales[1];
      if (context.lse != nullptr && !context.quantized_queries) {
        LeaveDots(storage, context, first_row);
      }
    } else {
      const std::uint32_t smem = __cvta_generic_to_shared(storage.q_rows) +
                                 (first_row + lane % 16) * Policy::kQueryPitch + lane / 16 * 16;
#pragma unroll
      for (int step = 0; step < Policy::kScoreSteps; ++step) {
        ptx::LoadMatrices(operands[step], smem + step * 32);
      }
      unit[0] = unit[1] = context.softmax_scale * kLog2E;
    }
    if constexpr (Policy::kSharedQueries) {
      ptx::SyncWarpgroup(warpgroup);  // all have done with those of the last item
      Share(storage, first_row, operands);
      ptx::FenceAsyncProxy();
      ptx::SyncWarpgroup(warpgroup);
    } else {
#pragma unroll
      for (int i = 0; i < 4 * Policy::kScoreSteps; ++i) q_[i / 4][i % 4] = operands[i / 4][i % 4];
    }
  }

  // The operand of a step.
  __device__ __forceinline__ decltype(auto) Operand(const SharedStorage<Policy>& storage,
                                                    int warpgroup, int step) const {
    if constexpr (Policy::kSharedQueries) {
      constexpr int kRowBytes = Policy::kScoreRowBytes;
      const std::uint64_t descriptor =
          ptx::MatrixDescriptor(__cvta_generic_to_shared(storage.q), 16, 8 * kRowBytes,
                                kRowBytes == 64 ? ptx::kSwizzle64 : ptx::kSwizzle128);
      return descriptor + ptx::DescriptorStep(warpgroup * kConsumerRows * kRowBytes + step * 32);
    } else {
      return (q_[step]);
    }
  }

  // The same for one warp's own products (mma.sync), of its rows from `first_row` of the tile on.
  __device__ __forceinline__ void WarpOperand(const SharedStorage<Policy>& storage, int first_row,
                                              int step, std::uint32_t (&operand)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (Policy::kSharedQueries) {
        operand[i] = *reinterpret_cast<const std::uint32_t*>(storage.q +
                                                             SharedOffset(first_row, 4 * step + i));
      } else {
        operand[i] = q_[step][i];
      }
    }
  }

  float unit[2];  // log2 units of a row's raw scores, but for the scale of K

 private:
  using Operands = std::uint32_t[Policy::kScoreSteps][4];

  // Rows `row` and `row` + 8 by spec `sage1`, a scale a row. Both at once: exchanges and divisions
  // take a while.
  static __device__ __forceinline__ void QuantizeRows(const SharedStorage<Policy>& storage, int row,
                                                      Operands& operands, float (&scales)[2]) {
    using Element = typename Policy::Element;
    constexpr std::uint32_t kMagnitudes = 0x7fff7fffU;
    constexpr int kWords = 2 * Policy::kScoreSteps;
    const std::uint8_t* const own =
        storage.q_rows + row * Policy::kQueryPitch + ptx::ThreadIndex() % 4 * 8;
    uint2 words[2][kWords];
    std::uint32_t max_bits[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t largest = 0;  // of either half of a word
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        uint2& word = words[half][i];
        word = *reinterpret_cast<const uint2*>(own + half * 8 * Policy::kQueryPitch + i * 32);
        largest = __vmaxu2(largest, __vmaxu2(word.x & kMagnitudes, word.y & kMagnitudes));
      }
      const float2 pair = Widen<Element>(largest);
      max_bits[half] = max(MagnitudeBits(pair.x), MagnitudeBits(pair.y));
    }
#pragma unroll
    for (int lane = 1; lane < 4; lane *= 2) {
      const std::uint32_t others[2] = {__shfl_xor_sync(0xffffffffU, max_bits[0], lane),
                                       __shfl_xor_sync(0xffffffffU, max_bits[1], lane)};
      max_bits[0] = max(max_bits[0], others[0]);
      max_bits[1] = max(max_bits[1], others[1]);
    }
    const GroupScale groups[2] = {MakeGroupScale(max_bits[0]), MakeGroupScale(max_bits[1])};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      scales[half] = groups[half].scale;
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        const float2 low = Widen<Element>(words[half][i].x);
        const float2 high = Widen<Element>(words[half][i].y);
        operands[i / 2][i % 2 * 2 + half] =
            QuantizeWord(low.x, low.y, high.x, high.y, groups[half].factor);
      }
    }
  }

  // The same of rows that came quantised.
  static __device__ __forceinline__ void TakeGivenRows(const SharedStorage<Policy>& storage,
                                                       int row, Operands& operands,
                                                       float (&scales)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint8_t* const own =
          storage.q_rows + (row + half * 8) * Policy::kQueryPitch + ptx::ThreadIndex() % 4 * 4;
#pragma unroll
      for (int i = 0; i < 2 * Policy::kScoreSteps; ++i) {
        operands[i / 2][i % 2 * 2 + half] = *reinterpret_cast<const std::uint32_t*>(own + i * 16);
      }
      scales[half] = storage.q_scales[row + half * 8];
    }
  }

  // Leaves what the lse of a row is to have added in the end in the place of the lse.
  static __device__ __forceinline__ void LeaveDots(const SharedStorage<Policy>& storage,
                                                   const ItemContext& context, int first_row) {
    using Share = QueryShare<Policy::kHeadDim, /*kTurns=*/4>;
    constexpr int kVectors = Share::kChannels / 8;
    const Share share(ptx::ThreadIndex() % 32, first_row);
#pragma unroll 1
    for (int turn = 0; turn < Share::kTurns; ++turn) {
      const int row = share.row(turn);
      uint4 words[kVectors];
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        words[i] = reinterpret_cast<const uint4*>(
            storage.q_rows + row * Policy::kQueryPitch)[share.part * kVectors + i];
      }
      const float dot = SumOfRow(LaneDot<typename Policy::Element>(
          words, context.smoothing + share.part * Share::kChannels));
      if (share.part == 0 && row < context.rows) context.lse[row] = context.softmax_scale * dot;
    }
  }

  static __device__ __forceinline__ void Share(SharedStorage<Policy>& storage, int first_row,
                                               const Operands& operands) {
#pragma unroll
    for (int i = 0; i < 4 * Policy::kScoreSteps; ++i) {
      *reinterpret_cast<std::uint32_t*>(storage.q + SharedOffset(first_row, i)) =
          operands[i / 4][i % 4];
    }
  }
  // Of this thread's word `i` of 4 * kScoreSteps.
  static __device__ __forceinline__ std::uint32_t SharedOffset(int first_row, int i) {
    const int lane = ptx::ThreadIndex() % 32;
    const int row = first_row + lane / 4 + i % 2 * 8;
    return SwizzledTile<Policy::kScoreRowBytes>::Offset(row, i / 2) + lane % 4 * 4;
  }

  std::uint32_t q_[Policy::kSharedQueries ? 1 : Policy::kScoreSteps][4];
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_QUERIES_CUH_
