#include "kernels/tensor_piece.h"

#include <algorithm>
#include <cstring>

namespace sage {
namespace {

// Calls copy(offset in the whole, offset in [begin, begin + size), bytes) for each run's share.
template <typename Copy>
void ForEachRun(const PieceRuns& runs, std::int64_t begin, std::int64_t size, Copy copy) {
  for (std::int64_t done = 0; done < size;) {
    const std::int64_t run = (begin + done) / runs.run_bytes;
    const std::int64_t within = (begin + done) % runs.run_bytes;
    const std::int64_t bytes = std::min(runs.run_bytes - within, size - done);
    copy(runs.offset + run * runs.stride_bytes + within, done, bytes);
    done += bytes;
  }
}

}  // namespace

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

void GatherPiece(const PieceRuns& runs, const std::byte* whole, std::int64_t begin,
                 std::int64_t size, std::byte* packed) {
  ForEachRun(runs, begin, size, [&](std::int64_t at, std::int64_t done, std::int64_t bytes) {
    std::memcpy(packed + done, whole + at, bytes);
  });
}

void ScatterPiece(const PieceRuns& runs, const std::byte* packed, std::int64_t begin,
                  std::int64_t size, std::byte* whole) {
  ForEachRun(runs, begin, size, [&](std::int64_t at, std::int64_t done, std::int64_t bytes) {
    std::memcpy(whole + at, packed + done, bytes);
  });
}

}  // namespace sage
