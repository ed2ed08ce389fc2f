// Attention of one tile: 128 query rows of one head over the key blocks listed for it.
//
//   s = q k^T,  p = exp2(s * softmax_scale * log2(e) - m),  o = sum p v / sum p     [online
//   softmax]
//
// Tile picture, for each listed block of 64 keys:
//   scores [128, 64]   int8: 4 rows x 4 vectors of keys a step, VPDPBUSD over channels by fours
//   softmax            vectors over keys; the block's factor of the old sums is kept per row
//   output [128, D]   += probabilities [128, 64] x values [64, D], 4 rows x 4 vectors of channels
// Source: FlashAttention (Dao et al., 2022) for the online softmax; SageAttention (Zhang et al.,
// 2024) for INT8 scores; SageAttention2 (2024) for e4m3 probabilities and values.
#ifndef SAGE_KERNELS_CPU_ATTEND_TILE_H_
#define SAGE_KERNELS_CPU_ATTEND_TILE_H_

#include <cstdint>
#include <span>

#include "kernels/backend.h"
#include "kernels/block_mask.h"

namespace sage {

// What one thread needs to compute a tile. D is the padded head_dim: rows are that many apart.
struct TileScratch {
  // Queries, of which rows past the end are zero.
  alignas(64) float q[kBlockM * kMaxHeadDim];         // [128, D]
  alignas(64) std::int8_t q8[kBlockM * kMaxHeadDim];  // [128, D], `sage1`
  float q_scales[kBlockM];                            // NaN for a row with a non-finite value
  std::int32_t score_start[kBlockM];  // -128 sum(q8): takes back the bias of the keys

  // The block in work.
  alignas(64) float k[kMaxHeadDim * kBlockN];       // [head_dim, 64], fp16 precision
  alignas(64) float v[kBlockN * kMaxHeadDim];       // [64, D], non-finite elements as 0
  alignas(64) float v_wild[kBlockN * kMaxHeadDim];  // [64, D], non-finite elements, else 0
  alignas(64) float scores[kBlockM * kBlockN];      // [128, 64], then the probabilities
  float rescale[kBlockM];                           // factor of what was summed before the block

  // Sums over the blocks so far.
  alignas(64) float out[kBlockM * kMaxHeadDim];  // [128, D], not yet divided by row_sum
  float row_max[kBlockM];                        // base 2, scaled
  float row_sum[kBlockM];
};

// Row `i` of `row_scales` and `start` belongs to row `i` of `x`, [rows, padded] floats with zeros
// past head_dim; `padded` is a multiple of 16. Same bits as QuantizeQueries.
void QuantizeQueryRows(const float* x, std::int64_t rows, std::int64_t padded, std::int8_t* x8,
                       float* row_scales, std::int32_t* start);

// Computes tile `tile` (counted from the task's first row) of query head `head` and writes its rows
// of the output and of lse, all of them; those at or past length_q become 0 and -inf. `blocks` is
// what AppendActiveBlocks gives for the tile.
void AttendTile(const AttendTask& task, std::int64_t head, std::int64_t tile,
                std::span<const ActiveBlock> blocks, TileScratch& scratch);

// The instructions that the kernels of this machine use, such as "avx512_vnni".
const char* KernelPath();

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_ATTEND_TILE_H_
