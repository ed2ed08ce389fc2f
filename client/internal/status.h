// gRPC's statuses as the library speaks them.
#ifndef SAGE_CLIENT_INTERNAL_STATUS_H_
#define SAGE_CLIENT_INTERNAL_STATUS_H_

#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace sage::internal {

// The same code; the message gains what the google.rpc details say and the message does not:
// fields, limits, when to try again. Where no server answered, it says which one was tried.
absl::Status FromGrpc(const grpc::Status& status, const std::string& target);

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_STATUS_H_
