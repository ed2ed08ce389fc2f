// The one conversion of errors to what travels: gRPC's status with a google.rpc.Status in its
// details.
#ifndef SAGE_SERVER_GRPC_STATUS_H_
#define SAGE_SERVER_GRPC_STATUS_H_

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace sage::server {

grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace sage::server

#endif  // SAGE_SERVER_GRPC_STATUS_H_
