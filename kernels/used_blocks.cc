#include "kernels/used_blocks.h"

#include <algorithm>

namespace sage {
namespace {

// Adds the first `blocks` bits of a packed row to another.
void AddBlocks(const std::uint8_t* from, std::int64_t blocks, std::uint8_t* to) {
  for (std::int64_t i = 0; i < blocks / 8; ++i) to[i] |= from[i];
  if (blocks % 8 != 0) to[blocks / 8] |= from[blocks / 8] & ((1U << (blocks % 8)) - 1);
}

}  // namespace

UsedBlocks::UsedBlocks(const AttentionProblem& problem, const BlockMask& mask)
    : heads_(problem.num_heads_kv),
      seqlen_k_(problem.seqlen_k),
      row_bytes_(CeilDiv(problem.blocks_k(), 8)),
      bits_(Bytes(problem)) {
  const bool entries_differ =
      mask.batch() != 1 || !problem.seqlens_q.empty() || !problem.seqlens_k.empty();
  const std::vector<std::uint8_t> every_block(row_bytes_, 0xff);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    std::uint8_t* const entry = bits_.data() + b * heads_ * row_bytes_;
    if (b > 0 && !entries_differ) {
      std::copy_n(bits_.data(), heads_ * row_bytes_, entry);
      continue;
    }
    for (std::int64_t h = 0; h < heads_; ++h) {
      std::uint8_t* const used = entry + h * row_bytes_;
      if (h > 0 && mask.heads() == 1) {
        std::copy_n(entry, row_bytes_, used);
        continue;
      }
      const std::int64_t listing_heads = mask.heads() == 1 ? 1 : problem.group_size();
      for (std::int64_t g = 0; g < listing_heads; ++g) {
        const BlockMaskView view = mask.View(b, h * problem.group_size() + g);
        for (std::int64_t tile = 0; tile < problem.tiles_q(); ++tile) {
          const std::int64_t visible =
              VisibleBlocks(tile, problem.length_q(b), problem.length_k(b), problem.is_causal);
          const std::uint8_t* const listed =
              view.full() ? every_block.data() : view.bits + tile * view.row_stride_bytes;
          AddBlocks(listed, visible, used);
        }
      }
    }
  }
}

std::vector<std::uint8_t> UsedBlocks::Of(std::int64_t batch, std::int64_t head_begin,
                                         std::int64_t head_count) const {
  std::vector<std::uint8_t> some(row_bytes_);
  for (std::int64_t h = head_begin; h < head_begin + head_count; ++h) {
    AddBlocks(bits_.data() + (batch * heads_ + h) * row_bytes_, 8 * row_bytes_, some.data());
  }
  return some;
}

std::vector<RowRange> UsedBlocks::RowsOf(std::int64_t batch, std::int64_t head_begin,
                                         std::int64_t head_count) const {
  const std::vector<std::uint8_t> used = Of(batch, head_begin, head_count);
  std::vector<RowRange> rows;
  for (std::int64_t begin = 0; begin < seqlen_k_; begin += kBlockN) {
    const std::int64_t block = begin / kBlockN;
    if (((used[block / 8] >> (block % 8)) & 1) == 0) continue;
    const std::int64_t count = std::min(kBlockN, seqlen_k_ - begin);
    if (!rows.empty() && rows.back().begin + rows.back().count == begin) {
      rows.back().count += count;
    } else {
      rows.push_back({begin, count});
    }
  }
  return rows;
}

}  // namespace sage
