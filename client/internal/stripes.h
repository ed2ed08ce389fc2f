// A large request cut into several that run side by side, each over a connection of its own.
#ifndef SAGE_CLIENT_INTERNAL_STRIPES_H_
#define SAGE_CLIENT_INTERNAL_STRIPES_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "client/attend_request.h"
#include "client/internal/outgoing_request.h"

namespace sage::internal {

// How many heads the caller's tensors have from one row, or batch entry, to the next: more than the
// request's where it is about some of them.
struct HeadsInMemory {
  std::int64_t q = 0;
  std::int64_t kv = 0;
};

// Some batch entries or heads of a request, as a request of its own on the caller's memory.
struct Stripe {
  AttendRequest request;
  HeadsInMemory heads;
  std::shared_ptr<const BlockMask> mask;  // that of `request`, where it had to be cut out
  std::optional<PartBegin> begin;         // in resident tensors, where there are some
};

// The stripes of a request that has passed CheckRequest(), at most `connections`: one, the request
// itself, where it is too small to gain or cannot be cut. Batch entries are cut apart first, then
// KV heads, then the query heads that share one, as long as sending its keys and values again costs
// little. Resident tensors stay whole: a stripe names its part of them. Keys and values are never
// cut, so that the answer's bits are those of the whole.
std::vector<Stripe> PlanStripes(const AttendRequest& request, int connections);

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_STRIPES_H_
