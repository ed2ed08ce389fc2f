// Where a piece of a tensor, some heads and rows of one batch entry, lies within the whole.
//
// A piece is itself a packed tensor in the same layout: HND [heads, rows, width], NHD [rows, heads,
// width]. It is made of runs that are contiguous in both. Rows need not follow one another.
#ifndef SAGE_KERNELS_TENSOR_PIECE_H_
#define SAGE_KERNELS_TENSOR_PIECE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

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

struct RowRange {
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

// Runs of several kinds, one after another in the piece.
class TensorPiece {
 public:
  TensorPiece() = default;
  TensorPiece(const PieceRuns& runs) { Append(runs); }  // NOLINT(google-explicit-constructor)
  // Those rows of the heads of `range` that are in `rows`, which are in order.
  TensorPiece(const TensorExtent& whole, const TensorRange& range, std::span<const RowRange> rows);

  std::int64_t bytes() const { return bytes_; }

  // Where a byte of the piece lies in the whole, and how many follow it there as in the piece, it
  // included.
  struct Place {
    std::int64_t offset = 0;
    std::int64_t run_bytes = 0;
  };
  Place Find(std::int64_t at) const;

  // Calls visit(offset in the whole, offset from `begin`, bytes) for each stretch of bytes [begin,
  // begin + size) of the piece, in order.
  template <typename Visit>
  void ForEachRun(std::int64_t begin, std::int64_t size, Visit visit) const {
    for (std::int64_t done = 0; done < size;) {
      const Place place = Find(begin + done);
      const std::int64_t bytes = std::min(place.run_bytes, size - done);
      visit(place.offset, done, bytes);
      done += bytes;
    }
  }

 private:
  struct Part {
    std::int64_t begin = 0;  // in the piece
    PieceRuns runs;
  };
  void Append(const PieceRuns& runs);

  std::vector<Part> parts_;  // none is empty
  std::int64_t bytes_ = 0;
};

// Copies bytes [begin, begin + size) of a piece from the whole tensor to `packed`, and back.
void GatherPiece(const TensorPiece& piece, const std::byte* whole, std::int64_t begin,
                 std::int64_t size, std::byte* packed);
void ScatterPiece(const TensorPiece& piece, const std::byte* packed, std::int64_t begin,
                  std::int64_t size, std::byte* whole);

}  // namespace sage

#endif  // SAGE_KERNELS_TENSOR_PIECE_H_
