// What of each unit of a request travels, and how large it is where it lies in memory.
#ifndef SAGE_SERVER_UNIT_PAYLOAD_H_
#define SAGE_SERVER_UNIT_PAYLOAD_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/attention.h"
#include "kernels/block_mask.h"
#include "kernels/tensor_piece.h"
#include "kernels/used_blocks.h"
#include "server/piece.h"
#include "server/quantized_scales.h"
#include "server/unit_plan.h"

namespace sage::server {

// Externally synchronised.
class UnitPayload {
 public:
  // `problem` outlives it. With `omit_unused_kv`, blocks of k and v that no query reads do not
  // travel, once LeaveOutUnused() has found out which they are.
  UnitPayload(const AttentionProblem& problem, std::vector<Unit> units, QuantizedScales scales,
              bool omit_unused_kv);

  void LeaveOutUnused(const BlockMask& mask);

  const std::vector<Unit>& units() const { return units_; }
  // Whether the unit is the last of those that share its KV heads.
  bool IsLastOfGroup(std::uint32_t unit) const;
  const QuantizedScales& scales() const { return scales_; }
  Quantized quantized() const { return scales_.operands(); }
  bool omits_unused_kv() const { return omits_unused_kv_; }
  // What is held of the header as long as the request: scales, and the list of used blocks.
  std::uint64_t header_bytes() const;

  // Of what travels: in all, and of one unit's piece.
  std::uint64_t bytes() const { return bytes_; }
  std::uint64_t Bytes(std::uint32_t unit, Piece piece) const;
  std::int64_t ElementBytes(Piece piece) const;
  std::uint64_t output_bytes() const { return output_bytes_; }  // lse included
  // Whether anything travels, before anything is left out.
  bool any() const { return any_; }
  // What counts against the window: payload, or where none travels, the size of the queries.
  std::uint64_t FlowBytes(const Unit& unit) const;

  // In memory: a unit's q, and the k that it carries, each with its scales; the list of used blocks
  // that goes with what it carries of k and v, 0 for none.
  std::uint64_t QueryBytes(const Unit& unit) const;
  std::uint64_t KeyBytes(const Unit& unit) const;
  std::uint64_t UsedBytes(const Unit& unit) const;

  // After LeaveOutUnused(): the list of a unit's used blocks, as UsedBlocks packs it, and its piece
  // of k or v as those rows of its memory that travel.
  std::vector<std::uint8_t> UsedList(const Unit& unit) const;
  TensorPiece UsedRows(const Unit& unit, Piece piece) const;

 private:
  const AttentionProblem& problem_;
  const std::vector<Unit> units_;
  const QuantizedScales scales_;
  const bool omits_unused_kv_;
  bool any_ = false;
  std::uint64_t bytes_ = 0;
  std::uint64_t output_bytes_ = 0;
  std::optional<UsedBlocks> used_;         // where blocks are left out
  std::vector<std::int64_t> rows_unused_;  // then, by carrier: rows that do not travel
};

}  // namespace sage::server

#endif  // SAGE_SERVER_UNIT_PAYLOAD_H_
