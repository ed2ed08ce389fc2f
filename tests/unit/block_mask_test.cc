#include "kernels/block_mask.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/block_lists.h"
#include "tests/support/problem_generator.h"

namespace sage {
namespace {

using ::testing::ElementsAre;

AttentionProblem Problem(std::int64_t seqlen_q, std::int64_t seqlen_k, std::int64_t batch = 1,
                         std::int64_t heads = 1) {
  AttentionProblem problem;
  problem.batch = batch;
  problem.num_heads_q = heads;
  problem.num_heads_kv = 1;
  problem.seqlen_q = seqlen_q;
  problem.seqlen_k = seqlen_k;
  problem.head_dim = 64;
  return problem;
}

// Sizes around the tile in both directions, and one with more than 8 blocks a row.
const std::vector<std::pair<std::int64_t, std::int64_t>> kShapes = {
    {1, 1},    {63, 64},  {64, 65},    {65, 63},    {127, 128},   {128, 129}, {129, 127},
    {1, 1000}, {1000, 1}, {129, 1000}, {1000, 129}, {1000, 1000}, {513, 1025}};

TEST(BlockMask, ADefaultMaskListsEveryBlock) {
  const BlockMask mask;
  EXPECT_TRUE(mask.full());
  EXPECT_TRUE(mask.View(3, 5).full());
  EXPECT_TRUE(mask.View(3, 5).at(7, 8, 9));
  EXPECT_TRUE(mask.ToDense().empty());
}

TEST(BlockMask, DenseAndPackedFormsAgree) {
  for (const auto& [seqlen_q, seqlen_k] : kShapes) {
    const AttentionProblem problem = Problem(seqlen_q, seqlen_k, 2, 3);
    for (const auto& [batch, heads] : {std::pair{1, 1}, {1, 3}, {2, 1}, {2, 3}}) {
      SCOPED_TRACE(testing::Describe(problem, seqlen_q));
      const std::vector<std::uint8_t> dense =
          testing::RandomDenseMask(problem, batch, heads, 0.5, seqlen_q);
      const auto mask = BlockMask::FromDense(problem, batch, heads, dense);
      ASSERT_TRUE(mask.ok()) << mask.status();
      EXPECT_FALSE(mask->full());
      EXPECT_EQ(mask->ToDense(), dense);
      const auto again = BlockMask::FromPacked(problem, batch, heads, mask->bits());
      ASSERT_TRUE(again.ok()) << again.status();
      EXPECT_EQ(again->ToDense(), dense);
    }
  }
}

TEST(BlockMask, PacksLeastSignificantBitFirst) {
  const AttentionProblem problem = Problem(256, 640);  // 2 x 10 blocks
  std::vector<std::uint8_t> dense(20, 0);
  dense[0] = dense[3] = dense[9] = 1;
  dense[10 + 8] = 1;
  const auto mask = BlockMask::FromDense(problem, 1, 1, dense);
  ASSERT_TRUE(mask.ok());
  EXPECT_EQ(mask->row_bytes(), 2);
  EXPECT_THAT(mask->bits(), ElementsAre(0b00001001, 0b10, 0, 0b1));
}

TEST(BlockMask, PaddingBitsOfPackedInputAreCleared) {
  const AttentionProblem problem = Problem(256, 640);
  const auto mask = BlockMask::FromPacked(problem, 1, 1, std::vector<std::uint8_t>(4, 0xff));
  ASSERT_TRUE(mask.ok());
  EXPECT_THAT(mask->bits(), ElementsAre(0xff, 0x03, 0xff, 0x03));
}

TEST(BlockMask, ViewsSelectTheEntryAndHead) {
  const AttentionProblem problem = Problem(300, 600, 2, 3);
  for (const auto& [batch, heads] : {std::pair{1, 1}, {1, 3}, {2, 1}, {2, 3}}) {
    const std::vector<std::uint8_t> dense =
        testing::RandomDenseMask(problem, batch, heads, 0.5, 42);
    const auto mask = BlockMask::FromDense(problem, batch, heads, dense);
    ASSERT_TRUE(mask.ok());
    const std::vector<std::uint8_t> copy(mask->bits().begin(), mask->bits().end());
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t first = 0; first < 3; ++first) {
        for (std::int64_t head = first; head < 3; ++head) {
          for (std::int64_t m = 0; m < problem.tiles_q(); ++m) {
            for (std::int64_t n = 0; n < problem.blocks_k(); ++n) {
              const std::int64_t plane = (b % batch) * heads + head % heads;
              const bool want =
                  dense[(plane * problem.tiles_q() + m) * problem.blocks_k() + n] != 0;
              ASSERT_EQ(mask->View(b, first).at(head - first, m, n), want);
              ASSERT_EQ(mask->RebasedView(copy.data(), b, first).at(head - first, m, n), want);
            }
          }
        }
      }
    }
  }
}

std::string MessageOf(const absl::StatusOr<BlockMask>& mask) {
  EXPECT_EQ(mask.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(mask.status().message());
}

TEST(BlockMask, WrongSizesAreRefusedWithTheRightOne) {
  const AttentionProblem problem = Problem(512, 640, 2, 4);  // 4 x 10 blocks
  const std::vector<std::uint8_t> bytes(1000, 1);
  const std::span<const std::uint8_t> all(bytes);
  EXPECT_EQ(MessageOf(BlockMask::FromDense(problem, 2, 4, all.first(319))),
            "mask: got 319 bytes, allowed 320 for blocks [2, 4, 4, 10]");
  EXPECT_EQ(MessageOf(BlockMask::FromDense(problem, 1, 1, all.first(41))),
            "mask: got 41 bytes, allowed 40 for blocks [1, 1, 4, 10]");
  EXPECT_EQ(MessageOf(BlockMask::FromDense(problem, 1, 1, {})),
            "mask: got 0 bytes, allowed 40 for blocks [1, 1, 4, 10]");
  EXPECT_EQ(MessageOf(BlockMask::FromPacked(problem, 1, 4, all.first(20))),
            "mask: got 20 bytes, allowed 32 for blocks [1, 4, 4, 10]");
  EXPECT_EQ(MessageOf(BlockMask::FromPacked(problem, 3, 1, all.first(24))),
            "mask batch: got 3, allowed 1 or 2");
  EXPECT_EQ(MessageOf(BlockMask::FromDense(problem, 1, 2, all.first(80))),
            "mask heads: got 2, allowed 1 or 4 (num_heads_q)");
  EXPECT_EQ(MessageOf(BlockMask::FromDense(problem, 0, 0, {})),
            "mask batch: got 0, allowed 1 or 2");
}

TEST(BlockMask, DenseBytesOtherThanZeroAndOneAreRefused) {
  const AttentionProblem problem = Problem(128, 640);
  std::vector<std::uint8_t> dense(10, 1);
  dense[7] = 255;
  EXPECT_EQ(MessageOf(BlockMask::FromDense(problem, 1, 1, dense)),
            "mask[7]: got 255, allowed 0 or 1");
}

// The formulas of the header, written with real division.
struct Formula {
  const AttentionProblem& problem;
  std::int64_t m;
  std::int64_t n;
  double s() const { return std::floor((128.0 * m + problem.seqlen_k - problem.seqlen_q) / 64); }
  double e() const {
    return std::floor((128.0 * m + 127 + problem.seqlen_k - problem.seqlen_q) / 64);
  }
  bool operator()(const SlidingWindowPattern& p) const {
    return s() - p.left_blocks <= n && n <= e() + p.right_blocks;
  }
  bool operator()(const SinkWindowPattern& p) const {
    return n < p.sink_blocks || (s() - p.left_blocks <= n && n <= e());
  }
  bool operator()(const StridedPattern& p) const {
    return n % p.stride_blocks == p.phase_blocks ||
           (p.local_blocks > 0 && s() - p.local_blocks < n && n <= e());
  }
  bool operator()(const BandPattern& p) const {
    return p.lower_blocks <= n - s() && n - s() <= p.upper_blocks;
  }
  bool operator()(const DocumentPattern& p) const {
    std::vector<std::size_t> document;
    for (std::size_t i = 0; i < p.lengths.size(); ++i) {
      document.insert(document.end(), p.lengths[i], i);
    }
    for (std::int64_t row = 128 * m; row < std::min(128 * m + 128, problem.seqlen_q); ++row) {
      for (std::int64_t key = 64 * n; key < std::min(64 * n + 64, problem.seqlen_k); ++key) {
        if (document[row] == document[key]) return true;
      }
    }
    return false;
  }
};

void ExpectFormula(const AttentionProblem& problem, const MaskPattern& pattern) {
  SCOPED_TRACE(testing::Describe(problem, pattern.index()));
  const auto mask = BlockMask::FromPattern(problem, pattern);
  ASSERT_TRUE(mask.ok()) << mask.status();
  EXPECT_EQ(mask->batch(), 1);
  EXPECT_EQ(mask->heads(), 1);
  for (std::int64_t m = 0; m < problem.tiles_q(); ++m) {
    for (std::int64_t n = 0; n < problem.blocks_k(); ++n) {
      ASSERT_EQ(mask->View(0, 0).at(0, m, n), std::visit(Formula{problem, m, n}, pattern))
          << m << " " << n;
    }
  }
  // Padding bits are 0: reading the bits back as packed input changes nothing.
  const auto again = BlockMask::FromPacked(problem, 1, 1, mask->bits());
  ASSERT_TRUE(again.ok());
  EXPECT_TRUE(std::equal(again->bits().begin(), again->bits().end(), mask->bits().begin()));
}

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

TEST(MaskPattern, BlocksFollowTheFormula) {
  for (const auto& [seqlen_q, seqlen_k] : kShapes) {
    const AttentionProblem problem = Problem(seqlen_q, seqlen_k);
    for (const std::int64_t a : {0, 1, 3, 20}) {
      for (const std::int64_t b : {0, 1, 2, 17}) {
        ExpectFormula(problem, SlidingWindowPattern{a, b});
        ExpectFormula(problem, SinkWindowPattern{a, b});
        ExpectFormula(problem, BandPattern{a - 4, a - 4 + b});
        for (const std::int64_t stride : {1, 3, 8, 100}) {
          if (a < stride) ExpectFormula(problem, StridedPattern{stride, a, b});
        }
      }
    }
  }
}

TEST(MaskPattern, DocumentsFollowTheFormula) {
  std::mt19937 random(5);
  for (const std::int64_t seqlen : {1, 63, 64, 65, 127, 128, 129, 1000}) {
    const AttentionProblem problem = Problem(seqlen, seqlen);
    ExpectFormula(problem, DocumentPattern{{seqlen}});
    ExpectFormula(problem, DocumentPattern{std::vector<std::int64_t>(seqlen, 1)});
    for (int repeat = 0; repeat < 10; ++repeat) {
      DocumentPattern pattern;
      for (std::int64_t left = seqlen; left > 0;) {
        const std::int64_t length = std::min<std::int64_t>(left, 1 + random() % 200);
        pattern.lengths.push_back(length);
        left -= length;
      }
      ExpectFormula(problem, pattern);
    }
  }
}

TEST(MaskPattern, HugeParametersDoNotOverflow) {
  const AttentionProblem problem = Problem(300, 1000);
  const std::vector<std::uint8_t> everything(problem.tiles_q() * problem.blocks_k(), 1);
  const std::vector<std::uint8_t> nothing(everything.size(), 0);
  const auto dense = [&](const MaskPattern& pattern) {
    return BlockMask::FromPattern(problem, pattern)->ToDense();
  };
  EXPECT_EQ(dense(SlidingWindowPattern{kHuge, kHuge}), everything);
  EXPECT_EQ(dense(SinkWindowPattern{kHuge, kHuge}), everything);
  EXPECT_EQ(dense(BandPattern{-kHuge - 1, kHuge}), everything);
  EXPECT_EQ(dense(BandPattern{kHuge - 1, kHuge}), nothing);
  EXPECT_EQ(dense(StridedPattern{kHuge, kHuge - 1, 0}), nothing);
}

TEST(MaskPattern, BadParametersAreRefusedByName) {
  const AttentionProblem problem = Problem(256, 256);
  const auto message = [&](const MaskPattern& pattern) {
    return MessageOf(BlockMask::FromPattern(problem, pattern));
  };
  EXPECT_EQ(message(SlidingWindowPattern{-1, 0}), "left_blocks: got -1, allowed 0 or more");
  EXPECT_EQ(message(SlidingWindowPattern{0, -2}), "right_blocks: got -2, allowed 0 or more");
  EXPECT_EQ(message(SinkWindowPattern{-3, 0}), "sink_blocks: got -3, allowed 0 or more");
  EXPECT_EQ(message(SinkWindowPattern{0, -4}), "left_blocks: got -4, allowed 0 or more");
  EXPECT_EQ(message(StridedPattern{0, 0, 0}), "stride_blocks: got 0, allowed 1 or more");
  EXPECT_EQ(message(StridedPattern{4, 4, 0}), "phase_blocks: got 4, allowed 0 to 3");
  EXPECT_EQ(message(StridedPattern{4, -1, 0}), "phase_blocks: got -1, allowed 0 to 3");
  EXPECT_EQ(message(StridedPattern{4, 0, -1}), "local_blocks: got -1, allowed 0 or more");
  EXPECT_EQ(message(BandPattern{2, 1}), "upper_blocks: got 1, allowed 2 (lower_blocks) or more");
  EXPECT_EQ(message(DocumentPattern{}), "lengths: got a sum of 0, allowed 256 (seqlen_k)");
  EXPECT_EQ(message(DocumentPattern{{200, 55}}),
            "lengths: got a sum of 255, allowed 256 (seqlen_k)");
  EXPECT_EQ(message(DocumentPattern{{256, 0}}),
            "lengths[1]: got 0, allowed 1 or more, all adding up to 256 (seqlen_k)");
  EXPECT_EQ(message(DocumentPattern{{1, kHuge}}),
            "lengths[1]: got 9223372036854775807, allowed 1 or more, all adding up to 256 "
            "(seqlen_k)");
  EXPECT_EQ(MessageOf(BlockMask::FromPattern(Problem(128, 256), DocumentPattern{{256}})),
            "seqlen_q: got 128, allowed 256 (seqlen_k) with document lengths");
}

// Blocks of a tile by looking at every element.
std::vector<ActiveBlock> ExpandElements(const BlockMaskView& mask, std::int64_t head,
                                        std::int64_t tile, std::int64_t length_q,
                                        std::int64_t length_k, std::int64_t blocks,
                                        bool is_causal) {
  std::vector<ActiveBlock> active;
  for (std::int64_t n = 0; n < blocks; ++n) {
    if (!mask.at(head, tile, n)) continue;
    bool some_seen = false;
    bool some_hidden = false;
    for (std::int64_t row = 128 * tile; row < std::min(128 * tile + 128, length_q); ++row) {
      for (std::int64_t key = 64 * n; key < 64 * n + 64; ++key) {
        const bool seen = key < length_k && (!is_causal || key <= row + length_k - length_q);
        some_seen = some_seen || seen;
        some_hidden = some_hidden || !seen;
      }
    }
    if (some_seen) active.push_back({static_cast<std::int32_t>(n), some_hidden});
  }
  return active;
}

TEST(AppendActiveBlocks, AgreesWithEveryElementOfRandomProblems) {
  std::mt19937 random(77);
  const std::int64_t sizes[] = {1, 63, 64, 65, 127, 128, 129, 200, 1000};
  for (int repeat = 0; repeat < 300; ++repeat) {
    AttentionProblem problem = Problem(sizes[random() % 9], sizes[random() % 9], 1, 2);
    problem.is_causal = random() % 2 == 0;
    const auto length_q = static_cast<std::int64_t>(random() % (problem.seqlen_q + 1));
    const auto length_k = static_cast<std::int64_t>(random() % (problem.seqlen_k + 1));
    problem.seqlens_q = {repeat % 3 == 0 ? problem.seqlen_q : length_q};
    problem.seqlens_k = {repeat % 5 == 0 ? problem.seqlen_k : length_k};
    SCOPED_TRACE(testing::Describe(problem, repeat));
    auto dense = testing::RandomDenseMask(problem, 1, 2, 0.5, repeat);
    testing::ClearMaskRows(problem, 3, &dense);
    const auto mask = BlockMask::FromDense(problem, 1, 2, dense);
    ASSERT_TRUE(mask.ok());
    std::int64_t listed = 0;
    std::int64_t existing = 0;
    const BlockLists lists(*mask);
    ASSERT_EQ(lists.bytes().size(), BlockLists::Bytes(*mask));
    BlockMaskView kept = mask->View(0, 0);
    kept.lists = lists.View(lists.bytes().data(), 0, 0);
    for (const BlockMaskView& view : {BlockMaskView{}, mask->View(0, 0), kept}) {
      for (std::int64_t head = 0; head < 2; ++head) {
        for (std::int64_t tile = 0; tile < problem.tiles_q(); ++tile) {
          std::vector<ActiveBlock> got = {{-1, true}};  // kept: the call appends
          AppendActiveBlocks(view, head, tile, problem.length_q(0), problem.length_k(0),
                             problem.is_causal, &got);
          ASSERT_EQ(got.front(), (ActiveBlock{-1, true}));
          got.erase(got.begin());
          const auto want =
              ExpandElements(view, head, tile, problem.length_q(0), problem.length_k(0),
                             problem.blocks_k(), problem.is_causal);
          ASSERT_EQ(got, want) << "head " << head << " tile " << tile;
          if (view.lists.row_begins != nullptr) continue;  // counted by its bits
          (view.full() ? existing : listed) += static_cast<std::int64_t>(want.size());
        }
      }
    }
    const double want_density = existing == 0 ? 0.0 : static_cast<double>(listed) / existing;
    EXPECT_DOUBLE_EQ(MaskDensity(problem, *mask), want_density);
    EXPECT_DOUBLE_EQ(MaskDensity(problem, BlockMask()), existing == 0 ? 0.0 : 1.0);
  }
}

TEST(AppendActiveBlocks, RowsPastTheQueryLengthMakeNoBlockPartial) {
  std::vector<ActiveBlock> got;
  // One row of 256 keys: it sees them all, the 127 rows after it do not exist.
  AppendActiveBlocks({}, 0, 0, 1, 256, true, &got);
  EXPECT_THAT(got, ElementsAre(ActiveBlock{0, false}, ActiveBlock{1, false}, ActiveBlock{2, false},
                               ActiveBlock{3, false}));
}

TEST(AppendActiveBlocks, ATileThatSeesNothingHasNoBlocks) {
  std::vector<ActiveBlock> got;
  AppendActiveBlocks({}, 0, 0, 300, 100, true, &got);   // rows 0 to 127 lie above the diagonal
  AppendActiveBlocks({}, 0, 3, 300, 100, false, &got);  // past the query length
  AppendActiveBlocks({}, 0, 0, 300, 0, false, &got);
  EXPECT_TRUE(got.empty());
}

// Of every batch entry and head, broadcast or not, in a copy too.
TEST(BlockListsTest, ListWhatTheBitsDo) {
  const AttentionProblem problem = Problem(300, 1000, 3, 4);
  for (const auto& [batch, heads] : {std::pair{1, 1}, {3, 1}, {1, 4}, {3, 4}}) {
    const auto mask = BlockMask::FromDense(problem, batch, heads,
                                           testing::RandomDenseMask(problem, batch, heads, 0.3, 5));
    ASSERT_TRUE(mask.ok());
    const BlockLists lists(*mask);
    const std::vector<std::byte> copy(lists.bytes().begin(), lists.bytes().end());
    for (std::int64_t b = 0; b < 3; ++b) {
      for (std::int64_t first = 0; first < 4; ++first) {
        BlockMaskView view = mask->View(b, first);
        BlockMaskView kept = view;
        kept.lists = lists.View(copy.data(), b, first);
        for (std::int64_t head = 0; first + head < 4; ++head) {
          for (std::int64_t tile = 0; tile < 3; ++tile) {
            std::vector<ActiveBlock> got, want;
            AppendActiveBlocks(kept, head, tile, 300, 900, b == 1, &got);
            AppendActiveBlocks(view, head, tile, 300, 900, b == 1, &want);
            ASSERT_EQ(got, want);
          }
        }
      }
    }
  }
}

TEST(MaskDensity, CountsEntriesByTheirOwnLengths) {
  AttentionProblem problem = Problem(256, 128, 2, 4);
  problem.seqlens_q = {128, 256};
  problem.seqlens_k = {64, 128};
  // Entry 0 has one block, entry 1 four; the mask lists the first block of each tile.
  const std::vector<std::uint8_t> dense = {1, 0, 1, 0};
  const auto mask = BlockMask::FromDense(problem, 1, 1, dense);
  ASSERT_TRUE(mask.ok());
  EXPECT_DOUBLE_EQ(MaskDensity(problem, *mask), 3.0 / 5.0);
}

TEST(MaskDensity, OfManyEqualEntriesTakesNoTime) {
  AttentionProblem problem = Problem(std::int64_t{1} << 27, 64, 1 << 16);
  EXPECT_DOUBLE_EQ(MaskDensity(problem, BlockMask()), 1.0);
}

// Of the parts of a problem, weighted by what they have: that of the whole.
TEST(MaskDensity, OfAPartCountsItAlone) {
  AttentionProblem problem = Problem(300, 300, 3, 4);
  problem.is_causal = true;
  const std::vector<std::int64_t> lengths = {300, 200, 100};
  problem.seqlens_k = lengths;
  const auto dense = testing::RandomDenseMask(problem, 3, 4, 0.5, 3);
  const auto mask = BlockMask::FromDense(problem, 3, 4, dense);
  ASSERT_TRUE(mask.ok());
  AttentionProblem part = problem;
  part.batch = 1;
  part.num_heads_q = part.num_heads_kv = 2;
  double listed = 0, existing = 0;
  for (std::int64_t batch = 0; batch < 3; ++batch) {
    part.seqlens_k = {lengths[batch]};
    for (const std::int64_t head : {0, 2}) {
      existing += ExistingBlocks(part);
      listed += ExistingBlocks(part) * MaskDensity(part, *mask, {batch, head});
    }
  }
  EXPECT_EQ(existing, ExistingBlocks(problem));
  EXPECT_DOUBLE_EQ(listed / existing, MaskDensity(problem, *mask));
}

TEST(MaskDensity, LeavesOutBlocksAboveTheDiagonal) {
  AttentionProblem problem = Problem(256, 256);
  problem.is_causal = true;
  // Tile 0 sees blocks 0 and 1, tile 1 all four.
  const std::vector<std::uint8_t> dense = {1, 0, 1, 1, 0, 0, 0, 1};
  const auto mask = BlockMask::FromDense(problem, 1, 1, dense);
  ASSERT_TRUE(mask.ok());
  EXPECT_DOUBLE_EQ(MaskDensity(problem, *mask), 2.0 / 6.0);
}

}  // namespace
}  // namespace sage
