// One Get call: a resident tensor is sent back.
#ifndef SAGE_SERVER_GET_CALL_H_
#define SAGE_SERVER_GET_CALL_H_

#include <string>

#include "server/attention_service.h"

namespace sage::server {

// The reactor owns itself; gRPC's rules apply to the arguments.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartGetCall(AttentionCore& core, Caller caller,
                                                         grpc::CallbackServerContext& context,
                                                         const grpc::ByteBuffer& request);

}  // namespace sage::server

#endif  // SAGE_SERVER_GET_CALL_H_
