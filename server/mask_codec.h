// Block masks of the wire that come with their message.
#ifndef SAGE_SERVER_MASK_CODEC_H_
#define SAGE_SERVER_MASK_CODEC_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "kernels/block_mask.h"
#include "sage/v1/types.pb.h"

namespace sage::server {

// A mask's size, and what builds it: to be called once these bytes are reserved.
struct DecodedMask {
  std::uint64_t bytes = 0;
  std::function<absl::StatusOr<BlockMask>()> make;
};

// A packed mask or a pattern for `problem`, which is valid. `field` is the mask's path in the
// request. Errors, here or of `make`: INVALID_ARGUMENT, UNIMPLEMENTED for what is not served,
// FAILED_PRECONDITION for a mask larger than max_mask_bytes.
absl::StatusOr<DecodedMask> DecodeMask(const v1::BlockMask& mask, const AttentionProblem& problem,
                                       std::uint64_t max_mask_bytes, const std::string& field);

}  // namespace sage::server

#endif  // SAGE_SERVER_MASK_CODEC_H_
