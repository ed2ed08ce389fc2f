// The order in which payload is sent.
#ifndef SAGE_CLIENT_INTERNAL_PAYLOAD_CURSOR_H_
#define SAGE_CLIENT_INTERNAL_PAYLOAD_CURSOR_H_

#include <cstdint>

#include "client/internal/unit_plan.h"
#include "kernels/tensor_piece.h"
#include "sage/v1/attention.pb.h"

namespace sage::internal {

struct PayloadChunk {
  v1::TensorRole tensor = v1::TENSOR_ROLE_UNSPECIFIED;
  std::uint32_t unit = 0;
  std::int64_t offset = 0;  // bytes from the start of the unit's piece
  std::int64_t size = 0;
  const TensorPiece* piece = nullptr;  // in the plan
  bool first_of_unit = false;
  // Where all of it is one stretch of the whole tensor: send it as it lies.
  bool contiguous = false;
  std::int64_t tensor_offset = 0;  // of its first byte in the whole tensor
};

// Walks units in order, q, k and v of each. Not thread-safe; borrows the plan.
class PayloadCursor {
 public:
  // `chunk_bytes`: largest chunk, at least 16.
  PayloadCursor(const UnitPlan* plan, std::int64_t chunk_bytes);

  bool done() const { return unit_ == plan_->units.size(); }
  // The chunk that comes next. Requires !done().
  PayloadChunk Next() const;
  // Moves past the chunk that Next() returns.
  void Advance();

 private:
  const TensorPiece& piece() const;
  // Moves on to the first piece, from here on, that has something to send.
  void SkipEmpty();

  const UnitPlan* const plan_;
  const std::int64_t chunk_bytes_;
  std::size_t unit_ = 0;
  int tensor_ = 0;  // 0 q, 1 k, 2 v
  bool unit_begun_ = false;
  std::int64_t offset_ = 0;
};

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_PAYLOAD_CURSOR_H_
