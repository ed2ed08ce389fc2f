// The request's header as the wire has it.
#ifndef SAGE_CLIENT_INTERNAL_WIRE_HEADER_H_
#define SAGE_CLIENT_INTERNAL_WIRE_HEADER_H_

#include "absl/status/status.h"
#include "client/attend_request.h"
#include "sage/v1/attention.pb.h"

namespace sage::internal {

// INVALID_ARGUMENT naming what is wrong with the request, so that no bad one travels.
absl::Status CheckRequest(const AttendRequest& request);

// Likewise for a mask of `problem`.
absl::Status CheckMask(const AttentionProblem& problem, const RequestMask& mask);

// The header of a request that passed CheckRequest().
v1::AttendHeader MakeHeader(const AttendRequest& request);

AttendReport MakeReport(const v1::AttendTrailer& trailer);

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_WIRE_HEADER_H_
