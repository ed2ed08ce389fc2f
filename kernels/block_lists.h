// The blocks that a mask lists, row by row, for masks that serve many requests: kernels then need
// not look for them among the bits.
#ifndef SAGE_KERNELS_BLOCK_LISTS_H_
#define SAGE_KERNELS_BLOCK_LISTS_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/block_mask.h"

namespace sage {

// Lies in one stretch of memory, so that a copy of it elsewhere is one copy. Immutable, so it may
// be read from any thread.
class BlockLists {
 public:
  // What bytes() will have: 8 bytes a row, 4 a listed block.
  static std::uint64_t Bytes(const BlockMask& mask);

  // `mask` is not full, which has no bits.
  explicit BlockLists(const BlockMask& mask);

  std::span<const std::byte> bytes() const { return bytes_; }

  // Those of heads from `first_head` on, of batch entry `b`, in bytes() or in a copy of them at
  // `base`, which is aligned to 8 bytes; valid while that memory is.
  BlockListsView View(const std::byte* base, std::int64_t b, std::int64_t first_head) const;

 private:
  std::int64_t batch_;
  std::int64_t heads_;
  std::int64_t tiles_;
  std::vector<std::byte> bytes_;  // begins of all rows and their end, int64; then blocks, int32
};

}  // namespace sage

#endif  // SAGE_KERNELS_BLOCK_LISTS_H_
