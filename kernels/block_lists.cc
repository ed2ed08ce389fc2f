#include "kernels/block_lists.h"

#include <bit>

namespace sage {
namespace {

std::int64_t NumRows(const BlockMask& mask) { return mask.batch() * mask.heads() * mask.tiles_q(); }

std::int64_t NumListed(const BlockMask& mask) {
  std::int64_t listed = 0;
  for (const std::uint8_t byte : mask.bits()) listed += std::popcount(byte);  // padding is 0
  return listed;
}

}  // namespace

std::uint64_t BlockLists::Bytes(const BlockMask& mask) {
  return (NumRows(mask) + 1) * sizeof(std::int64_t) + NumListed(mask) * sizeof(std::int32_t);
}

BlockLists::BlockLists(const BlockMask& mask)
    : batch_(mask.batch()), heads_(mask.heads()), tiles_(mask.tiles_q()), bytes_(Bytes(mask)) {
  const std::int64_t rows = NumRows(mask);
  auto* const begins = reinterpret_cast<std::int64_t*>(bytes_.data());
  auto* const blocks = reinterpret_cast<std::int32_t*>(begins + rows + 1);
  std::int64_t count = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    begins[row] = count;
    const auto bits = mask.bits().subspan(row * mask.row_bytes(), mask.row_bytes());
    for (std::size_t i = 0; i < bits.size(); ++i) {
      for (unsigned left = bits[i]; left != 0; left &= left - 1) {
        blocks[count++] = static_cast<std::int32_t>(8 * i) + std::countr_zero(left);
      }
    }
  }
  begins[rows] = count;
}

BlockListsView BlockLists::View(const std::byte* base, std::int64_t b,
                                std::int64_t first_head) const {
  const std::int64_t entry = batch_ == 1 ? 0 : b;
  const std::int64_t head = heads_ == 1 ? 0 : first_head;
  const auto* const begins = reinterpret_cast<const std::int64_t*>(base);
  return {.row_begins = begins + (entry * heads_ + head) * tiles_,
          .head_stride = heads_ == 1 ? 0 : tiles_,
          .blocks = reinterpret_cast<const std::int32_t*>(begins + batch_ * heads_ * tiles_ + 1)};
}

}  // namespace sage
