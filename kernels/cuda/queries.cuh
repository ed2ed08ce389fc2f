// How a warp shares rows of queries, and q . c of them for the lse of unsmoothed scores.
#ifndef SAGE_KERNELS_CUDA_QUERIES_CUH_
#define SAGE_KERNELS_CUDA_QUERIES_CUH_

#include <cstdint>

#include "kernels/cuda/sage1.cuh"

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

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_QUERIES_CUH_
