// The server's plan of a streamed request, checked before anything is trusted.
#ifndef SAGE_CLIENT_INTERNAL_UNIT_PLAN_H_
#define SAGE_CLIENT_INTERNAL_UNIT_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "client/attend_request.h"
#include "client/internal/outgoing_request.h"
#include "client/internal/stripes.h"
#include "kernels/attention.h"
#include "kernels/tensor_piece.h"
#include "kernels/used_blocks.h"
#include "sage/v1/attention.pb.h"

namespace sage::internal {

// What travels for one unit, in bytes as on the wire. Pieces that do not travel are empty.
struct PlannedUnit {
  TensorPiece q;
  TensorPiece k;
  TensorPiece v;
  TensorPiece out;
  TensorPiece lse;
  std::int64_t omitted_bytes = 0;  // of rows of k and v that no query reads

  std::int64_t payload_bytes() const { return q.bytes() + k.bytes() + v.bytes(); }
  std::int64_t window_bytes() const { return payload_bytes() + omitted_bytes; }
};

// How q and k travel.
struct QkForm {
  Int8Operands int8;
  bool made_here = false;  // quantised for this problem's heads alone, whatever there is in memory
};

struct UnitPlan {
  std::vector<PlannedUnit> units;
  std::int64_t window_bytes = 0;
  std::int64_t max_chunk_bytes = 0;
};

// INTERNAL, saying what is wrong, unless the units lie within the problem, cover every query row of
// every head exactly once, name an earlier carrier of the same k and v, and fit the window.
// `heads`: those that the tensors have in memory, of which the problem may be about some. What is
// resident does not travel, nor, where the server agrees to `used`, do blocks that are not.
absl::StatusOr<UnitPlan> CheckPlan(const AttentionProblem& problem, HeadsInMemory heads,
                                   const v1::Accepted& accepted, const QkForm& qk = {},
                                   const ResidentTensors& resident = {},
                                   const UsedBlocks* used = nullptr);

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_UNIT_PLAN_H_
