#include "kernels/tensor_piece.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace sage {

PieceRuns RunsOf(const TensorExtent& whole, const TensorRange& range) {
  const bool hnd = whole.layout == Layout::kHnd;
  // The whole as [batch, outer, inner, width]; a run covers `inner` of one `outer`.
  const std::int64_t inner = hnd ? whole.rows : whole.heads;
  const std::int64_t inner_begin = hnd ? range.row_begin : range.head_begin;
  const std::int64_t inner_count = hnd ? range.row_count : range.head_count;
  const std::int64_t outer = hnd ? whole.heads : whole.rows;
  const std::int64_t outer_begin = hnd ? range.head_begin : range.row_begin;
  const std::int64_t outer_count = hnd ? range.head_count : range.row_count;

  PieceRuns runs;
  runs.stride_bytes = inner * whole.width_bytes;
  runs.offset =
      (range.batch * outer + outer_begin) * runs.stride_bytes + inner_begin * whole.width_bytes;
  runs.run_bytes = inner_count * whole.width_bytes;
  runs.count = outer_count;
  if (inner_count == inner) {
    runs.run_bytes *= runs.count;
    runs.count = 1;
  }
  return runs;
}

TensorPiece::TensorPiece(const TensorExtent& whole, const TensorRange& range,
                         std::span<const RowRange> rows) {
  // Rows of one head follow one another in HND, heads of one row in NHD.
  const std::int64_t heads_at_once = whole.layout == Layout::kHnd ? 1 : range.head_count;
  for (std::int64_t head = 0; head < range.head_count; head += heads_at_once) {
    for (const RowRange& some : rows) {
      Append(RunsOf(whole, {.batch = range.batch,
                            .head_begin = range.head_begin + head,
                            .head_count = heads_at_once,
                            .row_begin = some.begin,
                            .row_count = some.count}));
    }
  }
}

void TensorPiece::Append(const PieceRuns& runs) {
  if (runs.bytes() == 0) return;
  if (!parts_.empty() && runs.count == 1) {
    PieceRuns& last = parts_.back().runs;
    if (last.count == 1 && last.offset + last.run_bytes == runs.offset) {
      last.run_bytes += runs.run_bytes;
      bytes_ += runs.run_bytes;
      return;
    }
  }
  parts_.push_back({bytes_, runs});
  bytes_ += runs.bytes();
}

TensorPiece::Place TensorPiece::Find(std::int64_t at) const {
  const auto after =
      std::upper_bound(parts_.begin(), parts_.end(), at,
                       [](std::int64_t byte, const Part& part) { return byte < part.begin; });
  const auto& [begin, runs] = *std::prev(after);
  const std::int64_t run = (at - begin) / runs.run_bytes;
  const std::int64_t within = (at - begin) % runs.run_bytes;
  return {runs.offset + run * runs.stride_bytes + within, runs.run_bytes - within};
}

void GatherPiece(const TensorPiece& piece, const std::byte* whole, std::int64_t begin,
                 std::int64_t size, std::byte* packed) {
  piece.ForEachRun(begin, size, [&](std::int64_t at, std::int64_t done, std::int64_t bytes) {
    std::memcpy(packed + done, whole + at, bytes);
  });
}

void ScatterPiece(const TensorPiece& piece, const std::byte* packed, std::int64_t begin,
                  std::int64_t size, std::byte* whole) {
  piece.ForEachRun(begin, size, [&](std::int64_t at, std::int64_t done, std::int64_t bytes) {
    std::memcpy(whole + at, packed + done, bytes);
  });
}

}  // namespace sage
