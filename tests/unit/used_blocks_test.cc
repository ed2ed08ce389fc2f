#include "kernels/used_blocks.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/problem_generator.h"

namespace sage {
namespace {

constexpr std::uint64_t kSeed = 20261124;

AttentionProblem RandomProblem(std::mt19937_64& random) {
  constexpr std::int64_t kLengths[] = {1, 63, 64, 65, 127, 128, 129, 600};
  AttentionProblem problem;
  problem.batch = 1 + random() % 3;
  problem.num_heads_kv = 1 + random() % 3;
  problem.num_heads_q = problem.num_heads_kv * (1 + random() % 3);
  problem.seqlen_q = kLengths[random() % 8];
  problem.seqlen_k = kLengths[random() % 8];
  problem.head_dim = 8;
  problem.is_causal = random() % 2 == 0;
  const bool with_lengths = random() % 2 == 0;
  for (std::int64_t b = 0; with_lengths && b < problem.batch; ++b) {
    problem.seqlens_q.push_back(random() % (problem.seqlen_q + 1));
    problem.seqlens_k.push_back(random() % (problem.seqlen_k + 1));
  }
  return problem;
}

// No mask, or one whose dimensions are broadcast or not.
BlockMask RandomMask(const AttentionProblem& problem, std::mt19937_64& random) {
  if (random() % 4 == 0) return {};
  const std::int64_t batch = random() % 2 == 0 ? 1 : problem.batch;
  const std::int64_t heads = random() % 2 == 0 ? 1 : problem.num_heads_q;
  return *BlockMask::FromDense(problem, batch, heads,
                               testing::RandomDenseMask(problem, batch, heads, 0.2, random()));
}

// Exactly the blocks of the kernels' lists.
TEST(UsedBlocksTest, AreThoseThatSomeQueryTileLists) {
  for (std::uint64_t seed = kSeed; seed < kSeed + 300; ++seed) {
    std::mt19937_64 random(seed);
    const AttentionProblem problem = RandomProblem(random);
    const BlockMask mask = RandomMask(problem, random);
    SCOPED_TRACE(testing::Describe(problem, seed));
    const UsedBlocks used(problem, mask);
    const std::int64_t group = problem.group_size();
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      const std::int64_t first = random() % problem.num_heads_kv;
      const std::int64_t count = 1 + random() % (problem.num_heads_kv - first);
      std::vector<bool> want(problem.blocks_k());
      for (std::int64_t h = first * group; h < (first + count) * group; ++h) {
        for (std::int64_t tile = 0; tile < problem.tiles_q(); ++tile) {
          std::vector<ActiveBlock> listed;
          AppendActiveBlocks(mask.View(b, h), 0, tile, problem.length_q(b), problem.length_k(b),
                             problem.is_causal, &listed);
          for (const ActiveBlock& block : listed) want[block.block] = true;
        }
      }
      const std::vector<std::uint8_t> bits = used.Of(b, first, count);
      std::vector<bool> got_rows(problem.seqlen_k);
      std::int64_t end = -1;
      for (const RowRange& rows : used.RowsOf(b, first, count)) {
        EXPECT_GT(rows.begin, end) << "ranges touch";
        end = rows.begin + rows.count;
        for (std::int64_t row = rows.begin; row < end; ++row) got_rows.at(row) = true;
      }
      for (std::int64_t n = 0; n < problem.blocks_k(); ++n) {
        EXPECT_EQ(((bits[n / 8] >> (n % 8)) & 1) != 0, want[n]) << "block " << n;
      }
      for (std::int64_t row = 0; row < problem.seqlen_k; ++row) {
        EXPECT_EQ(got_rows[row], want[row / kBlockN]) << "row " << row;
      }
    }
  }
}

TEST(UsedBlocksTest, OperandsThatAreScaledAsAWholeTravelWhole) {
  for (const bool int8 : {false, true}) {
    EXPECT_EQ(UnusedMayBeLeftOut(Precision::kQkInt8PvFp16, int8).k, int8);
    EXPECT_TRUE(UnusedMayBeLeftOut(Precision::kQkInt8PvFp16, int8).v);
    EXPECT_EQ(UnusedMayBeLeftOut(Precision::kQkInt8PvFp8, int8).k, int8);
    EXPECT_FALSE(UnusedMayBeLeftOut(Precision::kQkInt8PvFp8, int8).v);
  }
  EXPECT_TRUE(UnusedMayBeLeftOut(Precision::kFp16, false).k);
  EXPECT_TRUE(UnusedMayBeLeftOut(Precision::kFp16, false).v);
}

// Some rows of some heads, gathered, are what an index of every element says, and scatter back.
TEST(TensorPieceTest, HoldsSomeRowsInOrder) {
  for (std::uint64_t seed = kSeed; seed < kSeed + 200; ++seed) {
    std::mt19937_64 random(seed);
    const TensorExtent whole = {.layout = random() % 2 == 0 ? Layout::kHnd : Layout::kNhd,
                                .heads = 1 + static_cast<std::int64_t>(random() % 4),
                                .rows = 1 + static_cast<std::int64_t>(random() % 20),
                                .width_bytes = 1 + static_cast<std::int64_t>(random() % 3)};
    TensorRange range = {.batch = static_cast<std::int64_t>(random() % 2)};
    range.head_begin = random() % whole.heads;
    range.head_count = 1 + random() % (whole.heads - range.head_begin);
    std::vector<RowRange> ranges;
    std::vector<std::int64_t> rows;
    for (std::int64_t row = 0; row < whole.rows; ++row) {
      if (random() % 2 == 0) continue;
      ranges.push_back({row, 1});  // neighbours too
      rows.push_back(row);
    }
    const bool hnd = whole.layout == Layout::kHnd;
    std::vector<std::byte> from(2 * whole.heads * whole.rows * whole.width_bytes);
    for (std::byte& byte : from) byte = static_cast<std::byte>(random());
    std::vector<std::byte> want;
    std::vector<bool> taken(from.size());
    const auto take = [&](std::int64_t head, std::int64_t row) {
      const std::int64_t place = hnd ? (range.batch * whole.heads + head) * whole.rows + row
                                     : (range.batch * whole.rows + row) * whole.heads + head;
      for (std::int64_t i = 0; i < whole.width_bytes; ++i) {
        want.push_back(from[place * whole.width_bytes + i]);
        taken[place * whole.width_bytes + i] = true;
      }
    };
    const std::int64_t head_end = range.head_begin + range.head_count;
    if (hnd) {
      for (std::int64_t head = range.head_begin; head < head_end; ++head) {
        for (const std::int64_t row : rows) take(head, row);
      }
    } else {
      for (const std::int64_t row : rows) {
        for (std::int64_t head = range.head_begin; head < head_end; ++head) take(head, row);
      }
    }

    const TensorPiece piece(whole, range, ranges);
    ASSERT_EQ(piece.bytes(), static_cast<std::int64_t>(want.size())) << "seed " << seed;
    std::vector<std::byte> got(want.size());
    std::vector<std::byte> back(from.size());
    for (std::int64_t at = 0; at < piece.bytes();) {
      const std::int64_t size = std::min<std::int64_t>(1 + random() % 40, piece.bytes() - at);
      GatherPiece(piece, from.data(), at, size, got.data() + at);
      ScatterPiece(piece, got.data() + at, at, size, back.data());
      at += size;
    }
    EXPECT_EQ(got, want) << "seed " << seed;
    for (std::size_t i = 0; i < from.size(); ++i) {
      EXPECT_EQ(back[i], taken[i] ? from[i] : std::byte{0}) << "seed " << seed << ", byte " << i;
    }
  }
}

}  // namespace
}  // namespace sage
