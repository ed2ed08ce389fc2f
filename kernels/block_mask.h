// Block masks: which 128x64 tiles of the score matrix are computed, and the lists that kernels
// walk.
//
// One representation serves everywhere: packed bits. Dense bytes and patterns are turned into it
// once.
#ifndef SAGE_KERNELS_BLOCK_MASK_H_
#define SAGE_KERNELS_BLOCK_MASK_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/attention.h"

namespace sage {

// Patterns, each with its formula for block (m, n): query tile m, key block n. Tile m covers rows
// [128 m, 128 m + 127], block n keys [64 n, 64 n + 63]. Let e(m) be the last key block that the
// last row of tile m sees under bottom-right causality, e(m) = floor((128 m + 127 + Sk - Sq) / 64),
// and s(m) the block of the tile's first row on the same diagonal, s(m) = floor((128 m + Sk - Sq) /
// 64); both may be negative or past the last block. Patterns are exact per block: within a listed
// block every element counts, unless the problem is causal.
struct SlidingWindowPattern {     // s(m) - left <= n <= e(m) + right
  std::int64_t left_blocks = 0;   // >= 0
  std::int64_t right_blocks = 0;  // >= 0
};
struct SinkWindowPattern {       // n < sink, or s(m) - left <= n <= e(m)
  std::int64_t sink_blocks = 0;  // >= 0
  std::int64_t left_blocks = 0;  // >= 0
};
struct StridedPattern {  // n mod stride == phase, or s(m) - local < n <= e(m) when local > 0
  std::int64_t stride_blocks = 1;  // >= 1
  std::int64_t phase_blocks = 0;   // in [0, stride_blocks)
  std::int64_t local_blocks = 0;   // >= 0
};
struct BandPattern {  // lower <= n - s(m) <= upper
  std::int64_t lower_blocks = 0;
  std::int64_t upper_blocks = 0;  // >= lower_blocks
};
// Documents packed into one sequence, the same cut for queries and keys (Sq == Sk, lengths summing
// to Sk): block (m, n) is listed when some row of tile m and some key of block n share a document.
struct DocumentPattern {
  std::vector<std::int64_t> lengths;  // each >= 1
};
using MaskPattern = std::variant<SlidingWindowPattern, SinkWindowPattern, StridedPattern,
                                 BandPattern, DocumentPattern>;

// Lists of consecutive heads of one batch entry (kernels/block_lists.h); does not own them. Row m
// of head h lists, ascending, blocks[row_begins[r]] up to blocks[row_begins[r + 1]], r being h *
// head_stride + m. row_begins == nullptr: there are none.
struct BlockListsView {
  const std::int64_t* row_begins = nullptr;
  std::int64_t head_stride = 0;  // in rows; 0 broadcasts one head
  const std::int32_t* blocks = nullptr;
};

// Packed bits of consecutive heads of one batch entry; does not own them. Row m of head h starts at
// bits + h * head_stride_bytes + m * row_stride_bytes, bit n is (byte n/8 >> n%8) & 1. A head
// stride of 0 broadcasts one head. bits == nullptr lists every block.
struct BlockMaskView {
  const std::uint8_t* bits = nullptr;
  std::int64_t head_stride_bytes = 0;
  std::int64_t row_stride_bytes = 0;
  BlockListsView lists = {};  // of the same blocks, where they are kept

  bool full() const { return bits == nullptr; }
  bool at(std::int64_t head, std::int64_t tile, std::int64_t block) const {
    return bits == nullptr ||
           ((bits[head * head_stride_bytes + tile * row_stride_bytes + block / 8] >> (block % 8)) &
            1) != 0;
  }
};

// An owning mask [batch | 1, num_heads_q | 1, ceil(Sq/128), ceil(Sk/64)], indexed by query head.
// Immutable after construction, so it may be read from any thread. A default-constructed mask lists
// every block.
class BlockMask {
 public:
  BlockMask() = default;

  // Errors of all three: INVALID_ARGUMENT naming what came and what size is right for `problem`,
  // which must be valid.
  // `dense`: one byte a block, 0 or 1, dimensions `batch` and `heads` each 1 or the problem's.
  static absl::StatusOr<BlockMask> FromDense(const AttentionProblem& problem, std::int64_t batch,
                                             std::int64_t heads,
                                             std::span<const std::uint8_t> dense);
  // `packed`: LSB first, each row of blocks padded to whole bytes; padding bits are ignored.
  static absl::StatusOr<BlockMask> FromPacked(const AttentionProblem& problem, std::int64_t batch,
                                              std::int64_t heads,
                                              std::span<const std::uint8_t> packed);
  // Takes ceil(Sq/128) * ceil(ceil(Sk/64) / 8) bytes, however short the pattern's description:
  // check that first where the problem comes from outside. Uses Sq and Sk, not the lengths per
  // entry.
  static absl::StatusOr<BlockMask> FromPattern(const AttentionProblem& problem,
                                               const MaskPattern& pattern);

  bool full() const { return bits_.empty(); }
  std::int64_t batch() const { return batch_; }
  std::int64_t heads() const { return heads_; }
  std::int64_t tiles_q() const { return tiles_q_; }
  std::int64_t blocks_k() const { return blocks_k_; }
  std::int64_t row_bytes() const { return (blocks_k_ + 7) / 8; }
  // Packed bits, rows of row_bytes(), padding bits 0. Empty for a full mask.
  std::span<const std::uint8_t> bits() const { return bits_; }

  // Heads from `first_head` on, of batch entry `b`; valid while *this lives. Strides are those of
  // bits(), so the same view applies to a copy of bits() elsewhere (see RebasedView).
  BlockMaskView View(std::int64_t b, std::int64_t first_head) const;
  // The same view over a copy of bits() at `base`, for instance in device memory.
  BlockMaskView RebasedView(const std::uint8_t* base, std::int64_t b,
                            std::int64_t first_head) const;

  std::vector<std::uint8_t> ToDense() const;  // [batch, heads, tiles_q, blocks_k], empty for full

 private:
  // Of the right dimensions, bits not allocated yet.
  BlockMask(const AttentionProblem& problem, std::int64_t batch, std::int64_t heads);
  void Allocate();

  std::int64_t batch_ = 1;
  std::int64_t heads_ = 1;
  std::int64_t tiles_q_ = 0;
  std::int64_t blocks_k_ = 0;
  std::vector<std::uint8_t> bits_;
};

// Key blocks [0, result) hold every key that some row of the tile can see, whatever the mask; 0 for
// a tile past the length.
std::int64_t VisibleBlocks(std::int64_t tile, std::int64_t length_q, std::int64_t length_k,
                           bool is_causal);

// Listed blocks over all blocks that exist for the problem, counting per batch entry and query head
// only tiles and keys within its lengths, and, if causal, only blocks with an element on or below
// the diagonal. 1 for a full mask, but 0 where no block exists. `begin`: the problem's first batch
// entry and query head in a mask of a larger one, broadcast dimensions apart.
struct MaskBegin {
  std::int64_t batch = 0;
  std::int64_t head = 0;
};
double MaskDensity(const AttentionProblem& problem, const BlockMask& mask, MaskBegin begin = {});

// How many blocks exist for the problem, as above.
double ExistingBlocks(const AttentionProblem& problem);

// One key block that a query tile has to compute.
struct ActiveBlock {
  std::int32_t block = 0;
  // Whether some (row, key) pair of the block is excluded by causality or lies past the key length,
  // so that elements must be masked. Rows past the query length do not count.
  bool partial = false;

  friend bool operator==(const ActiveBlock&, const ActiveBlock&) = default;
};

// Appends to `out`, in ascending order, the blocks that tile `tile` of head `head` of `mask` lists,
// ANDed with the key length and causality. Appends nothing where no row of the tile sees a key.
void AppendActiveBlocks(const BlockMaskView& mask, std::int64_t head, std::int64_t tile,
                        std::int64_t length_q, std::int64_t length_k, bool is_causal,
                        std::vector<ActiveBlock>* out);

}  // namespace sage

#endif  // SAGE_KERNELS_BLOCK_MASK_H_
