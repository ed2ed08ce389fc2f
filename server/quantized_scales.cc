#include "server/quantized_scales.h"

#include "kernels/tensor_piece.h"

namespace sage::server {
namespace {

// Kernels read v 16 bytes at a time.
constexpr std::uint64_t kAlignment = 16;

// Rows of an [B, heads, rows] tensor of floats that belong to a unit, packed.
void Gather(const std::vector<float>& whole, std::int64_t heads, std::int64_t rows,
            const TensorRange& range, float* to) {
  const PieceRuns runs = RunsOf({Layout::kHnd, heads, rows, sizeof(float)}, range);
  GatherPiece(runs, reinterpret_cast<const std::byte*>(whole.data()), 0, runs.bytes(),
              reinterpret_cast<std::byte*>(to));
}

}  // namespace

std::uint64_t QueryScaleBytes(const QuantizedScales& scales, const Unit& unit,
                              const AttentionProblem& problem) {
  if (scales.q.empty()) return 0;
  const std::uint64_t rows = unit.kv_head_count * problem.group_size() * unit.q_count;
  return rows * sizeof(float) * (scales.q_dots.empty() ? 1 : 2);
}

std::uint64_t KeyScaleBytes(const QuantizedScales& scales, const Unit& unit,
                            const AttentionProblem& problem) {
  if (scales.k.empty() || unit.k_bytes == 0) return 0;
  const std::uint64_t bytes =
      unit.kv_head_count * (problem.blocks_k() + problem.head_dim) * sizeof(float);
  return (unit.k_bytes + bytes + kAlignment - 1) / kAlignment * kAlignment - unit.k_bytes;
}

QueryScales PlaceQueryScales(const QuantizedScales& scales, const Unit& unit,
                             const AttentionProblem& problem, std::byte* to) {
  const TensorRange range = {unit.batch, unit.kv_head_begin * problem.group_size(),
                             unit.kv_head_count * problem.group_size(), unit.q_begin, unit.q_count};
  auto* const floats = reinterpret_cast<float*>(to);
  Gather(scales.q, problem.num_heads_q, problem.seqlen_q, range, floats);
  QueryScales placed = {.scales = floats, .dot_smoothing = nullptr, .head_stride = unit.q_count};
  if (!scales.q_dots.empty()) {
    float* const dots = floats + range.head_count * range.row_count;
    Gather(scales.q_dots, problem.num_heads_q, problem.seqlen_q, range, dots);
    placed.dot_smoothing = dots;
  }
  return placed;
}

KeyScales PlaceKeyScales(const QuantizedScales& scales, const Unit& unit,
                         const AttentionProblem& problem, std::byte* to) {
  const TensorRange blocks = {unit.batch, unit.kv_head_begin, unit.kv_head_count, 0,
                              problem.blocks_k()};
  const TensorRange channels = {unit.batch, unit.kv_head_begin, unit.kv_head_count, 0,
                                problem.head_dim};
  auto* const floats = reinterpret_cast<float*>(to);
  float* const smoothing = floats + blocks.head_count * blocks.row_count;
  Gather(scales.k, problem.num_heads_kv, problem.blocks_k(), blocks, floats);
  Gather(scales.smoothing, problem.num_heads_kv, problem.head_dim, channels, smoothing);
  return {.scales = floats, .head_stride = problem.blocks_k(), .smoothing = smoothing};
}

}  // namespace sage::server
