// A gRPC server: the services, all over one core.
#ifndef SAGE_SERVER_GRPC_FRONT_H_
#define SAGE_SERVER_GRPC_FRONT_H_

#include <chrono>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/server_builder.h"
#include "sage/v1/sessions.grpc.pb.h"
#include "server/attention_service.h"
#include "server/callers.h"
#include "server/server_service.h"
#include "server/tensors_service.h"

namespace sage::server {

// Serves the connections that it is handed. gRPC does not tell a call who is at the other end of
// its socket, so that users told apart by their sockets have a front each. Thread-safe.
class GrpcFront {
 public:
  struct Options {
    std::shared_ptr<grpc::ServerCredentials> credentials;  // of the connections
    bool reflection = false;
    int max_requests = 0;  // at a time; a connection takes somewhat more calls
    std::chrono::milliseconds max_connection_age{};
    std::chrono::milliseconds max_connection_grace{};
    ServerService::Options about;
  };

  // `core` outlives the front. INTERNAL where gRPC does not start.
  static absl::StatusOr<std::unique_ptr<GrpcFront>> Start(AttentionCore& core, Callers callers,
                                                          Options options);

  void HandleConnection(int listener_fd, int fd);  // takes `fd` over
  void SetHealthy(bool healthy);
  // Ends what has not ended by then.
  void Shutdown(std::chrono::system_clock::time_point deadline);

 private:
  GrpcFront(AttentionCore& core, Callers callers, ServerService::Options about)
      : callers_(std::move(callers)),
        attention_(core, callers_),
        tensors_(core, callers_),
        about_(callers_, std::move(about)) {}

  const Callers callers_;
  // Services go after the server that calls them.
  AttentionService attention_;
  TensorsService tensors_;
  v1::Sessions::CallbackService sessions_;  // every method answers UNIMPLEMENTED
  ServerService about_;
  std::unique_ptr<grpc::Server> grpc_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> sink_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_GRPC_FRONT_H_
