// From wire headers to checked requests. Nothing past this point checks the wire again.
#ifndef SAGE_SERVER_CODEC_H_
#define SAGE_SERVER_CODEC_H_

#include <cstdint>
#include <optional>

#include "absl/status/statusor.h"
#include "sage/v1/attention.pb.h"
#include "server/attend_job.h"
#include "server/tensor_lookup.h"

namespace sage::server {

// Errors: INVALID_ARGUMENT naming the field, NOT_FOUND for handles, UNIMPLEMENTED for what is not
// served, FAILED_PRECONDITION for a mask larger than max_mask_bytes. The deadline is left for the
// caller to set.
absl::StatusOr<JobSpec> DecodeHeader(const v1::AttendHeader& header, std::uint64_t max_mask_bytes,
                                     const TensorLookup& tensors);

// The piece that a role of a request's payload names; nothing for other roles.
std::optional<Piece> PayloadPiece(v1::TensorRole role);

v1::TensorRole Role(Piece piece);
void ToProto(const Unit& unit, v1::Unit* proto);

}  // namespace sage::server

#endif  // SAGE_SERVER_CODEC_H_
