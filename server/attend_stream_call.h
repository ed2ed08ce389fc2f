// One AttendStream call.
#ifndef SAGE_SERVER_ATTEND_STREAM_CALL_H_
#define SAGE_SERVER_ATTEND_STREAM_CALL_H_

#include "server/attention_service.h"

namespace sage::server {

// The reactor owns itself.
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartAttendStreamCall(
    AttentionCore& core, Caller caller, grpc::CallbackServerContext& context);

}  // namespace sage::server

#endif  // SAGE_SERVER_ATTEND_STREAM_CALL_H_
