// From the header's scales of q and k that travel as `sage1` int8 to checked ones.
#ifndef SAGE_SERVER_QUANTIZED_CODEC_H_
#define SAGE_SERVER_QUANTIZED_CODEC_H_

#include "absl/status/statusor.h"
#include "sage/v1/attention.pb.h"
#include "server/quantized_scales.h"

namespace sage::server {

// INVALID_ARGUMENT for a precision or an operand that takes no int8, for scales of another size
// than the problem's, and for values that no scale has.
absl::StatusOr<QuantizedScales> DecodeQuantized(const v1::AttendHeader& header,
                                                const AttentionProblem& problem);

}  // namespace sage::server

#endif  // SAGE_SERVER_QUANTIZED_CODEC_H_
