#include "kernels/block_mask.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sage {
namespace {

std::int64_t FloorDiv(std::int64_t a, std::int64_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}

// Pattern parameters beyond any distance between blocks act like this one, which cannot overflow.
std::int64_t ClampDistance(std::int64_t blocks) {
  return std::clamp(blocks, -kMaxDimension, kMaxDimension);
}

// Listed blocks among the first `end` of a packed row.
std::int64_t CountBlocks(const std::uint8_t* row, std::int64_t end) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < end / 8; ++i) count += std::popcount(row[i]);
  if (end % 8 != 0) count += std::popcount(row[end / 8] & ((1U << (end % 8)) - 1));
  return count;
}

absl::Status RefuseMask(const std::string& field, const std::string& got,
                        const std::string& allowed) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": got ", got, ", allowed ", allowed));
}

absl::Status CheckNotNegative(const std::string& field, std::int64_t value) {
  if (value >= 0) return absl::OkStatus();
  return RefuseMask(field, absl::StrCat(value), "0 or more");
}

// Size of a mask of `batch` x `heads`, `row_size` bytes a row of blocks.
absl::Status CheckSize(const AttentionProblem& problem, std::int64_t batch, std::int64_t heads,
                       std::int64_t row_size, std::size_t got_bytes) {
  if (batch != 1 && batch != problem.batch) {
    return RefuseMask("mask batch", absl::StrCat(batch), absl::StrCat("1 or ", problem.batch));
  }
  if (heads != 1 && heads != problem.num_heads_q) {
    return RefuseMask("mask heads", absl::StrCat(heads),
                      absl::StrCat("1 or ", problem.num_heads_q, " (num_heads_q)"));
  }
  const std::int64_t bytes = batch * heads * problem.tiles_q() * row_size;
  if (static_cast<std::uint64_t>(bytes) != got_bytes) {
    return RefuseMask("mask", absl::StrCat(got_bytes, " bytes"),
                      absl::StrCat(bytes, " for blocks [", batch, ", ", heads, ", ",
                                   problem.tiles_q(), ", ", problem.blocks_k(), "]"));
  }
  return absl::OkStatus();
}

// The rows of a mask while a pattern is written into them, all bits 0 at first.
class MaskRows {
 public:
  MaskRows(const AttentionProblem& problem, std::int64_t row_bytes, std::uint8_t* bits)
      : offset_(problem.seqlen_k - problem.seqlen_q),
        tiles_(problem.tiles_q()),
        blocks_(problem.blocks_k()),
        row_bytes_(row_bytes),
        bits_(bits) {}

  std::int64_t tiles() const { return tiles_; }
  std::int64_t blocks() const { return blocks_; }

  // s(m) and e(m) of the pattern formulas.
  std::int64_t DiagonalFirst(std::int64_t tile) const {
    return FloorDiv(tile * kBlockM + offset_, kBlockN);
  }
  std::int64_t DiagonalLast(std::int64_t tile) const {
    return FloorDiv(tile * kBlockM + kBlockM - 1 + offset_, kBlockN);
  }

  // Lists those of blocks [first, last] that exist.
  void Set(std::int64_t tile, std::int64_t first, std::int64_t last) {
    std::uint8_t* row = bits_ + tile * row_bytes_;
    const std::int64_t end = std::min(last + 1, blocks_);
    for (std::int64_t n = std::max<std::int64_t>(first, 0); n < end;) {
      if (n % 8 == 0 && end - n >= 8) {
        row[n / 8] = 0xff;
        n += 8;
      } else {
        row[n / 8] = static_cast<std::uint8_t>(row[n / 8] | (1U << (n % 8)));
        ++n;
      }
    }
  }

 private:
  std::int64_t offset_;
  std::int64_t tiles_;
  std::int64_t blocks_;
  std::int64_t row_bytes_;
  std::uint8_t* bits_;
};

absl::Status Fill(const SlidingWindowPattern& pattern, const AttentionProblem& /*problem*/,
                  MaskRows* rows) {
  if (absl::Status status = CheckNotNegative("left_blocks", pattern.left_blocks); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckNotNegative("right_blocks", pattern.right_blocks); !status.ok()) {
    return status;
  }
  const std::int64_t left = ClampDistance(pattern.left_blocks);
  const std::int64_t right = ClampDistance(pattern.right_blocks);
  for (std::int64_t m = 0; m < rows->tiles(); ++m) {
    rows->Set(m, rows->DiagonalFirst(m) - left, rows->DiagonalLast(m) + right);
  }
  return absl::OkStatus();
}

absl::Status Fill(const SinkWindowPattern& pattern, const AttentionProblem& /*problem*/,
                  MaskRows* rows) {
  if (absl::Status status = CheckNotNegative("sink_blocks", pattern.sink_blocks); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckNotNegative("left_blocks", pattern.left_blocks); !status.ok()) {
    return status;
  }
  const std::int64_t sink = ClampDistance(pattern.sink_blocks);
  const std::int64_t left = ClampDistance(pattern.left_blocks);
  for (std::int64_t m = 0; m < rows->tiles(); ++m) {
    rows->Set(m, 0, sink - 1);
    rows->Set(m, rows->DiagonalFirst(m) - left, rows->DiagonalLast(m));
  }
  return absl::OkStatus();
}

absl::Status Fill(const StridedPattern& pattern, const AttentionProblem& /*problem*/,
                  MaskRows* rows) {
  if (pattern.stride_blocks < 1) {
    return RefuseMask("stride_blocks", absl::StrCat(pattern.stride_blocks), "1 or more");
  }
  if (pattern.phase_blocks < 0 || pattern.phase_blocks >= pattern.stride_blocks) {
    return RefuseMask("phase_blocks", absl::StrCat(pattern.phase_blocks),
                      absl::StrCat("0 to ", pattern.stride_blocks - 1));
  }
  if (absl::Status status = CheckNotNegative("local_blocks", pattern.local_blocks); !status.ok()) {
    return status;
  }
  const std::int64_t stride = ClampDistance(pattern.stride_blocks);
  const std::int64_t local = ClampDistance(pattern.local_blocks);
  for (std::int64_t m = 0; m < rows->tiles(); ++m) {
    for (std::int64_t n = pattern.phase_blocks; n < rows->blocks(); n += stride) rows->Set(m, n, n);
    if (local > 0) rows->Set(m, rows->DiagonalFirst(m) - local + 1, rows->DiagonalLast(m));
  }
  return absl::OkStatus();
}

absl::Status Fill(const BandPattern& pattern, const AttentionProblem& /*problem*/, MaskRows* rows) {
  if (pattern.upper_blocks < pattern.lower_blocks) {
    return RefuseMask("upper_blocks", absl::StrCat(pattern.upper_blocks),
                      absl::StrCat(pattern.lower_blocks, " (lower_blocks) or more"));
  }
  const std::int64_t lower = ClampDistance(pattern.lower_blocks);
  const std::int64_t upper = ClampDistance(pattern.upper_blocks);
  for (std::int64_t m = 0; m < rows->tiles(); ++m) {
    rows->Set(m, rows->DiagonalFirst(m) + lower, rows->DiagonalFirst(m) + upper);
  }
  return absl::OkStatus();
}

absl::Status Fill(const DocumentPattern& pattern, const AttentionProblem& problem, MaskRows* rows) {
  if (problem.seqlen_q != problem.seqlen_k) {
    return RefuseMask("seqlen_q", absl::StrCat(problem.seqlen_q),
                      absl::StrCat(problem.seqlen_k, " (seqlen_k) with document lengths"));
  }
  std::vector<std::int64_t> ends;  // one past the last token of each document
  std::int64_t end = 0;
  for (std::size_t i = 0; i < pattern.lengths.size(); ++i) {
    const std::int64_t length = pattern.lengths[i];
    if (length < 1 || length > problem.seqlen_k - end) {
      return RefuseMask(
          absl::StrCat("lengths[", i, "]"), absl::StrCat(length),
          absl::StrCat("1 or more, all adding up to ", problem.seqlen_k, " (seqlen_k)"));
    }
    end += length;
    ends.push_back(end);
  }
  if (end != problem.seqlen_k) {
    return RefuseMask("lengths", absl::StrCat("a sum of ", end),
                      absl::StrCat(problem.seqlen_k, " (seqlen_k)"));
  }
  for (std::int64_t m = 0; m < rows->tiles(); ++m) {
    // The documents that a tile touches are neighbours, so the keys they hold are one range.
    const std::int64_t first_row = m * kBlockM;
    const std::int64_t last_row = std::min(first_row + kBlockM, problem.seqlen_q) - 1;
    const auto first = std::upper_bound(ends.begin(), ends.end(), first_row);
    const auto last = std::upper_bound(first, ends.end(), last_row);
    const std::int64_t first_key = first == ends.begin() ? 0 : *(first - 1);
    rows->Set(m, first_key / kBlockN, (*last - 1) / kBlockN);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<BlockMask> BlockMask::FromDense(const AttentionProblem& problem, std::int64_t batch,
                                               std::int64_t heads,
                                               std::span<const std::uint8_t> dense) {
  BlockMask mask(problem, batch, heads);
  if (absl::Status status = CheckSize(problem, batch, heads, mask.blocks_k_, dense.size());
      !status.ok()) {
    return status;
  }
  mask.Allocate();
  const std::uint8_t* in = dense.data();
  for (std::uint8_t* row = mask.bits_.data(); in != dense.data() + dense.size();
       row += mask.row_bytes()) {
    for (std::int64_t n = 0; n < mask.blocks_k_; ++n, ++in) {
      if (*in > 1) {
        return RefuseMask(absl::StrCat("mask[", in - dense.data(), "]"), absl::StrCat(int{*in}),
                          "0 or 1");
      }
      row[n / 8] = static_cast<std::uint8_t>(row[n / 8] | (*in << (n % 8)));
    }
  }
  return mask;
}

absl::StatusOr<BlockMask> BlockMask::FromPacked(const AttentionProblem& problem, std::int64_t batch,
                                                std::int64_t heads,
                                                std::span<const std::uint8_t> packed) {
  BlockMask mask(problem, batch, heads);
  if (absl::Status status = CheckSize(problem, batch, heads, mask.row_bytes(), packed.size());
      !status.ok()) {
    return status;
  }
  mask.bits_.assign(packed.begin(), packed.end());
  const std::int64_t used_bits = mask.blocks_k_ % 8;
  if (used_bits != 0) {  // clear the padding
    const auto keep = static_cast<std::uint8_t>((1U << used_bits) - 1);
    for (std::size_t i = mask.row_bytes() - 1; i < mask.bits_.size(); i += mask.row_bytes()) {
      mask.bits_[i] &= keep;
    }
  }
  return mask;
}

absl::StatusOr<BlockMask> BlockMask::FromPattern(const AttentionProblem& problem,
                                                 const MaskPattern& pattern) {
  BlockMask mask(problem, 1, 1);
  mask.Allocate();
  MaskRows rows(problem, mask.row_bytes(), mask.bits_.data());
  absl::Status status =
      std::visit([&](const auto& parameters) { return Fill(parameters, problem, &rows); }, pattern);
  if (!status.ok()) return status;
  return mask;
}

BlockMask::BlockMask(const AttentionProblem& problem, std::int64_t batch, std::int64_t heads)
    : batch_(batch), heads_(heads), tiles_q_(problem.tiles_q()), blocks_k_(problem.blocks_k()) {}

void BlockMask::Allocate() { bits_.assign(batch_ * heads_ * tiles_q_ * row_bytes(), 0); }

BlockMaskView BlockMask::View(std::int64_t b, std::int64_t first_head) const {
  return RebasedView(bits_.data(), b, first_head);
}

BlockMaskView BlockMask::RebasedView(const std::uint8_t* base, std::int64_t b,
                                     std::int64_t first_head) const {
  if (full()) return {};
  const std::int64_t head_stride = tiles_q_ * row_bytes();
  const std::int64_t entry = batch_ == 1 ? 0 : b;
  const std::int64_t head = heads_ == 1 ? 0 : first_head;
  return {.bits = base + (entry * heads_ + head) * head_stride,
          .head_stride_bytes = heads_ == 1 ? 0 : head_stride,
          .row_stride_bytes = row_bytes()};
}

std::vector<std::uint8_t> BlockMask::ToDense() const {
  std::vector<std::uint8_t> dense;
  if (full()) return dense;
  dense.reserve(batch_ * heads_ * tiles_q_ * blocks_k_);
  for (std::size_t row = 0; row < bits_.size(); row += row_bytes()) {
    for (std::int64_t n = 0; n < blocks_k_; ++n) {
      dense.push_back((bits_[row + n / 8] >> (n % 8)) & 1);
    }
  }
  return dense;
}

std::int64_t VisibleBlocks(std::int64_t tile, std::int64_t length_q, std::int64_t length_k,
                           bool is_causal) {
  if (tile * kBlockM >= length_q) return 0;
  // Rows past the length would see no more than the last existing row, which sees all keys.
  const std::int64_t last_row = (tile + 1) * kBlockM - 1;
  return CeilDiv(is_causal ? CausalKeyEnd(last_row, length_q, length_k) : length_k, kBlockN);
}

double MaskDensity(const AttentionProblem& problem, const BlockMask& mask, MaskBegin begin) {
  std::int64_t listed = 0;
  std::int64_t existing = 0;
  // A header of a few bytes can name so many entries that counting each would take minutes.
  const bool entries_differ =
      mask.batch() != 1 || !problem.seqlens_q.empty() || !problem.seqlens_k.empty();
  const std::int64_t entries = entries_differ ? problem.batch : 1;
  const std::int64_t heads = mask.heads() == 1 ? 1 : problem.num_heads_q;
  for (std::int64_t b = 0; b < entries; ++b) {
    for (std::int64_t m = 0; m < problem.tiles_q(); ++m) {
      const std::int64_t end =
          VisibleBlocks(m, problem.length_q(b), problem.length_k(b), problem.is_causal);
      // Heads that share a row of the mask are counted once, above and below the line.
      existing += end * heads;
      for (std::int64_t h = 0; h < heads; ++h) {
        const BlockMaskView view = mask.View(begin.batch + b, begin.head + h);
        listed += view.full() ? end : CountBlocks(view.bits + m * view.row_stride_bytes, end);
      }
    }
  }
  return existing == 0 ? 0.0 : static_cast<double>(listed) / static_cast<double>(existing);
}

double ExistingBlocks(const AttentionProblem& problem) {
  double blocks = 0;
  const bool entries_differ = !problem.seqlens_q.empty() || !problem.seqlens_k.empty();
  const std::int64_t entries = entries_differ ? problem.batch : 1;
  for (std::int64_t b = 0; b < entries; ++b) {
    for (std::int64_t m = 0; m < problem.tiles_q(); ++m) {
      blocks += static_cast<double>(
          VisibleBlocks(m, problem.length_q(b), problem.length_k(b), problem.is_causal));
    }
  }
  return blocks * static_cast<double>(problem.num_heads_q) *
         static_cast<double>(entries_differ ? 1 : problem.batch);
}

void AppendActiveBlocks(const BlockMaskView& mask, std::int64_t head, std::int64_t tile,
                        std::int64_t length_q, std::int64_t length_k, bool is_causal,
                        std::vector<ActiveBlock>* out) {
  const std::int64_t end = VisibleBlocks(tile, length_q, length_k, is_causal);
  // Keys before this are seen by every row of the tile: the first row sees the fewest.
  const std::int64_t common_end =
      is_causal ? CausalKeyEnd(tile * kBlockM, length_q, length_k) : length_k;
  const auto append = [&](std::int64_t n) {
    out->push_back(
        {.block = static_cast<std::int32_t>(n), .partial = (n + 1) * kBlockN > common_end});
  };
  if (const BlockListsView& lists = mask.lists; lists.row_begins != nullptr) {
    const std::int64_t* const row = lists.row_begins + head * lists.head_stride + tile;
    for (std::int64_t i = row[0]; i < row[1] && lists.blocks[i] < end; ++i) append(lists.blocks[i]);
    return;
  }
  for (std::int64_t n = 0; n < end; ++n) {
    if (mask.at(head, tile, n)) append(n);
  }
}

}  // namespace sage
