// Calls that are refused before anything of them is read.
#ifndef SAGE_SERVER_REFUSED_CALL_H_
#define SAGE_SERVER_REFUSED_CALL_H_

#include "absl/status/status.h"
#include "grpcpp/server_context.h"
#include "server/call_record.h"
#include "server/grpc_status.h"

namespace sage::server {

// Ends a call of any kind with an error; the reactor owns itself.
template <typename Reactor>
class RefusedCall final : public Reactor {
 public:
  explicit RefusedCall(const absl::Status& status) { this->Finish(ToGrpcStatus(status)); }
  void OnDone() override { delete this; }
};

// The same, counted and logged.
template <typename Reactor>
Reactor* Refuse(const char* rpc, const grpc::CallbackServerContext& call,
                const absl::Status& status, Metrics& metrics) {
  CallRecord(rpc, call).Close(status, nullptr, metrics);
  return new RefusedCall<Reactor>(status);
}

}  // namespace sage::server

#endif  // SAGE_SERVER_REFUSED_CALL_H_
