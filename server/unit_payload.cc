#include "server/unit_payload.h"

#include <utility>

namespace sage::server {

UnitPayload::UnitPayload(const AttentionProblem& problem, std::vector<Unit> units,
                         QuantizedScales scales, bool omit_unused_kv)
    : problem_(problem),
      units_(std::move(units)),
      scales_(std::move(scales)),
      omits_unused_kv_(omit_unused_kv) {
  for (const Unit& unit : units_) {
    bytes_ += unit.payload_bytes();
    output_bytes_ += unit.out_bytes + unit.lse_bytes;
  }
  any_ = bytes_ > 0;
}

void UnitPayload::LeaveOutUnused(const BlockMask& mask) {
  used_.emplace(problem_, mask);
  rows_unused_.resize(units_.size(), 0);
  bytes_ = 0;
  for (std::uint32_t i = 0; i < units_.size(); ++i) {
    const Unit& unit = units_[i];
    if (unit.kv_unit == i) {
      rows_unused_[i] = problem_.seqlen_k;
      for (const RowRange& rows :
           used_->RowsOf(unit.batch, unit.kv_head_begin, unit.kv_head_count)) {
        rows_unused_[i] -= rows.count;
      }
    }
    for (const Piece piece : {Piece::kQ, Piece::kK, Piece::kV}) bytes_ += Bytes(i, piece);
  }
}

bool UnitPayload::IsLastOfGroup(std::uint32_t unit) const {
  return unit + 1 == units_.size() || units_[unit + 1].kv_unit != units_[unit].kv_unit;
}

std::uint64_t UnitPayload::header_bytes() const {
  return scales_.bytes() + (omits_unused_kv_ ? UsedBlocks::Bytes(problem_) : 0);
}

std::uint64_t UnitPayload::Bytes(std::uint32_t unit, Piece piece) const {
  const std::uint64_t bytes = PlannedBytes(units_[unit], piece);
  if (!used_.has_value()) return bytes;
  const MayLeaveOut may = UnusedMayBeLeftOut(problem_.precision, quantized().k);
  if ((piece == Piece::kK && may.k) || (piece == Piece::kV && may.v)) {
    return bytes - bytes / problem_.seqlen_k * rows_unused_[unit];
  }
  return bytes;
}

std::int64_t UnitPayload::ElementBytes(Piece piece) const {
  switch (piece) {
    case Piece::kQ:
      return quantized().q ? 1 : SizeOf(problem_.dtype);
    case Piece::kK:
      return quantized().k ? 1 : SizeOf(problem_.dtype);
    case Piece::kV:
      return SizeOf(problem_.dtype);
    case Piece::kOut:
      return SizeOf(problem_.output_dtype);
    case Piece::kLse:
      return sizeof(float);
  }
  return 0;
}

std::uint64_t UnitPayload::FlowBytes(const Unit& unit) const {
  if (any_) return unit.payload_bytes();
  return unit.kv_head_count * problem_.group_size() * unit.q_count * problem_.head_dim *
         SizeOf(problem_.dtype);
}

std::uint64_t UnitPayload::QueryBytes(const Unit& unit) const {
  return unit.q_bytes + QueryScaleBytes(scales_, unit, problem_);
}

std::uint64_t UnitPayload::KeyBytes(const Unit& unit) const {
  return unit.k_bytes + KeyScaleBytes(scales_, unit, problem_);
}

std::uint64_t UnitPayload::UsedBytes(const Unit& unit) const {
  if (!omits_unused_kv_ || unit.k_bytes + unit.v_bytes == 0) return 0;
  return CeilDiv(problem_.blocks_k(), 8);
}

std::vector<std::uint8_t> UnitPayload::UsedList(const Unit& unit) const {
  return used_->Of(unit.batch, unit.kv_head_begin, unit.kv_head_count);
}

TensorPiece UnitPayload::UsedRows(const Unit& unit, Piece piece) const {
  const TensorExtent slab = {.layout = problem_.layout,
                             .heads = unit.kv_head_count,
                             .rows = problem_.seqlen_k,
                             .width_bytes = problem_.head_dim * ElementBytes(piece)};
  return {slab,
          {.batch = 0, .head_begin = 0, .head_count = unit.kv_head_count},
          used_->RowsOf(unit.batch, unit.kv_head_begin, unit.kv_head_count)};
}

}  // namespace sage::server
