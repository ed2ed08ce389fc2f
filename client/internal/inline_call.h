// One unary Attend, for requests small enough to travel as one message.
#ifndef SAGE_CLIENT_INTERNAL_INLINE_CALL_H_
#define SAGE_CLIENT_INTERNAL_INLINE_CALL_H_

#include <cstddef>
#include <memory>

#include "absl/time/time.h"
#include "client/attend_request.h"
#include "client/client.h"
#include "client/internal/outgoing_request.h"

namespace sage::internal {

// Upper bound of the larger of the two messages that the request would travel in.
std::size_t InlineMessageBytes(const AttendRequest& request);

// `deadline` may be infinite.
AttendCall StartInlineCall(const std::shared_ptr<grpc::Channel>& channel,
                           const ClientOptions& options, OutgoingRequest outgoing,
                           absl::Time deadline, Client::AttendCallback done);

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_INLINE_CALL_H_
