// Where a piece of a tensor, some heads and rows of one batch entry, lies within the whole.
//
// A piece is itself a packed tensor in the same layout: HND [heads, rows, width], NHD [rows, heads,
// width]. It is made of runs that are contiguous in both.
#ifndef SAGE_KERNELS_TENSOR_PIECE_H_
#define SAGE_KERNELS_TENSOR_PIECE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

namespace sage {

// A whole tensor: [batch, heads, rows, width] in HND, [batch, rows, heads, width] in NHD.
struct TensorExtent {
  Layout layout = Layout::kHnd;
  std::int64_t heads = 0;
  std::int64_t rows = 0;
  std::int64_t width_bytes = 0;  // head_dim elements; one fp32 for lse, which is always HND
};

struct TensorRange {
  std::int64_t batch = 0;
  std::int64_t head_begin = 0;
  std::int64_t head_count = 0;
  std::int64_t row_begin = 0;
  std::int64_t row_count = 0;
};

// Run i is bytes [i * run_bytes, (i + 1) * run_bytes) of the piece, and starts at offset + i *
// stride_bytes of the whole.
struct PieceRuns {
  std::int64_t offset = 0;
  std::int64_t stride_bytes = 0;
  std::int64_t run_bytes = 0;
  std::int64_t count = 0;

  std::int64_t bytes() const { return run_bytes * count; }
};

// Runs are as long as can be: a piece that is contiguous in the whole is one run.
PieceRuns RunsOf(const TensorExtent& whole, const TensorRange& range);

// Copies bytes [begin, begin + size) of a piece from the whole tensor to `packed`, and back.
void GatherPiece(const PieceRuns& runs, const std::byte* whole, std::int64_t begin,
                 std::int64_t size, std::byte* packed);
void ScatterPiece(const PieceRuns& runs, const std::byte* packed, std::int64_t begin,
                  std::int64_t size, std::byte* whole);

}  // namespace sage

#endif  // SAGE_KERNELS_TENSOR_PIECE_H_
