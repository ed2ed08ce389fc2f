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

const PieceRuns& PayloadCursor::runs() const {
  const PlannedUnit& unit = plan_->units[unit_];
  return tensor_ == 0 ? unit.q : tensor_ == 1 ? unit.k : unit.v;
}

void PayloadCursor::SkipEmpty() {
  while (!done() && offset_ == runs().bytes()) {
    offset_ = 0;
    if (++tensor_ == kTensors) {
      tensor_ = 0;
      ++unit_;
    }
  }
}

PayloadChunk PayloadCursor::Next() const {
  PayloadChunk chunk;
  chunk.tensor = kRoles[tensor_];
  chunk.unit = static_cast<std::uint32_t>(unit_);
  chunk.offset = offset_;
  chunk.runs = runs();
  const std::int64_t run = offset_ / chunk.runs.run_bytes;
  const std::int64_t within = offset_ % chunk.runs.run_bytes;
  const std::int64_t rest_of_run = chunk.runs.run_bytes - within;
  chunk.size = std::min(chunk_bytes_, chunk.runs.bytes() - offset_);
  if (rest_of_run >= kWorthItsOwnMessage) chunk.size = std::min(chunk.size, rest_of_run);
  chunk.contiguous = chunk.size <= rest_of_run;
  chunk.tensor_offset = chunk.runs.offset + run * chunk.runs.stride_bytes + within;
  return chunk;
}

void PayloadCursor::Advance() {
  offset_ += Next().size;
  SkipEmpty();
}

}  // namespace sage::internal
