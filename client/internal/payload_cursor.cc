#include "client/internal/payload_cursor.h"

#include <algorithm>
#include <cstddef>

namespace sage::internal {
namespace {

// A stretch this long goes as a message of its own, without a copy; shorter ones are gathered into
// full chunks, since many small messages cost more than a copy.
constexpr std::int64_t kWorthItsOwnMessage = 256 << 10;
// Chunks end between elements.
constexpr std::int64_t kChunkAlignment = 16;

constexpr int kTensors = 3;
constexpr v1::TensorRole kRoles[kTensors] = {v1::TENSOR_ROLE_Q, v1::TENSOR_ROLE_K,
                                             v1::TENSOR_ROLE_V};

}  // namespace

PayloadCursor::PayloadCursor(const UnitPlan* plan, std::int64_t chunk_bytes)
    : plan_(plan), chunk_bytes_(chunk_bytes / kChunkAlignment * kChunkAlignment) {
  SkipEmpty();
}

const TensorPiece& PayloadCursor::piece() const {
  const PlannedUnit& unit = plan_->units[unit_];
  return tensor_ == 0 ? unit.q : tensor_ == 1 ? unit.k : unit.v;
}

void PayloadCursor::SkipEmpty() {
  while (!done() && offset_ == piece().bytes()) {
    offset_ = 0;
    if (++tensor_ == kTensors) {
      tensor_ = 0;
      unit_begun_ = false;
      ++unit_;
    }
  }
}

PayloadChunk PayloadCursor::Next() const {
  PayloadChunk chunk;
  chunk.tensor = kRoles[tensor_];
  chunk.unit = static_cast<std::uint32_t>(unit_);
  chunk.offset = offset_;
  chunk.piece = &piece();
  chunk.first_of_unit = !unit_begun_;
  const auto [place, rest_of_run] = chunk.piece->Find(offset_);
  chunk.size = std::min(chunk_bytes_, chunk.piece->bytes() - offset_);
  if (rest_of_run >= kWorthItsOwnMessage) chunk.size = std::min(chunk.size, rest_of_run);
  chunk.contiguous = chunk.size <= rest_of_run;
  chunk.tensor_offset = place;
  return chunk;
}

void PayloadCursor::Advance() {
  offset_ += Next().size;
  unit_begun_ = true;
  SkipEmpty();
}

}  // namespace sage::internal
