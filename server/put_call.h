// One Put call: a tensor comes to stay.
#ifndef SAGE_SERVER_PUT_CALL_H_
#define SAGE_SERVER_PUT_CALL_H_

#include <string>

#include "server/attention_service.h"

namespace sage::server {

// The reactor owns itself; gRPC's rules apply to the arguments.
grpc::ServerReadReactor<grpc::ByteBuffer>* StartPutCall(AttentionCore& core, Caller caller,
                                                        grpc::CallbackServerContext& context,
                                                        grpc::ByteBuffer& response);

}  // namespace sage::server

#endif  // SAGE_SERVER_PUT_CALL_H_
