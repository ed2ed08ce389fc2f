// Which blocks of keys the queries of a problem read at all: what the others hold matters to nobody
// but those who look at all of k or v.
#ifndef SAGE_KERNELS_USED_BLOCKS_H_
#define SAGE_KERNELS_USED_BLOCKS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "kernels/block_mask.h"
#include "kernels/tensor_piece.h"

namespace sage {

// Block n of a KV head is used where, for a query head that reads it and a query tile m within the
// length, the mask lists (m, n), key 64 n exists and, if causal, 64 n <= 128 m + 127 + length_k -
// length_q. Immutable, so it may be read from any thread.
class UsedBlocks {
 public:
  // `mask` is one of `problem`, which is valid.
  UsedBlocks(const AttentionProblem& problem, const BlockMask& mask);

  // Bytes that this takes for a problem.
  static std::uint64_t Bytes(const AttentionProblem& problem) {
    return problem.batch * problem.num_heads_kv * CeilDiv(problem.blocks_k(), 8);
  }

  // Blocks that some of these KV heads use, packed: block n is bit n % 8 of byte n / 8.
  std::vector<std::uint8_t> Of(std::int64_t batch, std::int64_t head_begin,
                               std::int64_t head_count) const;

  // Their rows of k and v: ranges in order that do not touch each other.
  std::vector<RowRange> RowsOf(std::int64_t batch, std::int64_t head_begin,
                               std::int64_t head_count) const;

 private:
  const std::int64_t heads_;
  const std::int64_t seqlen_k_;
  const std::int64_t row_bytes_;
  std::vector<std::uint8_t> bits_;  // [batch, num_heads_kv, row_bytes], packed as above
};

// Operands of which unused blocks may be left out without a change of the answer's bits: nothing
// is made of all their blocks. Not k where it is still to be smoothed, nor v where it is to be
// scaled.
struct MayLeaveOut {
  bool k = false;
  bool v = false;
};
constexpr MayLeaveOut UnusedMayBeLeftOut(Precision precision, bool k_is_int8) {
  return {.k = precision == Precision::kFp16 || k_is_int8,
          .v = precision != Precision::kQkInt8PvFp8};
}

}  // namespace sage

#endif  // SAGE_KERNELS_USED_BLOCKS_H_
