// One Attend call: whole tensors in one message each way.
#ifndef SAGE_SERVER_ATTEND_CALL_H_
#define SAGE_SERVER_ATTEND_CALL_H_

#include "server/attention_service.h"

namespace sage::server {

// The reactor owns itself; gRPC's rules for unary calls apply to the arguments.
grpc::ServerUnaryReactor* StartAttendCall(AttentionCore& core, Caller caller,
                                          grpc::CallbackServerContext& context,
                                          const grpc::ByteBuffer& request,
                                          grpc::ByteBuffer& response);

}  // namespace sage::server

#endif  // SAGE_SERVER_ATTEND_CALL_H_
