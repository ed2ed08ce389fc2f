// A gRPC server for one tenant: the services, all over one core.
#ifndef SAGE_SERVER_GRPC_FRONT_H_
#define SAGE_SERVER_GRPC_FRONT_H_

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/server_builder.h"
#include "sage/v1/sessions.grpc.pb.h"
#include "server/attention_service.h"
#include "server/server_service.h"
#include "server/tensors_service.h"

namespace sage::server {

// Serves the connections that it is handed. gRPC does not tell a call from which socket it came, so
// that clients told apart by their sockets have a front each. Thread-safe.
class GrpcFront {
 public:
  struct Options {
    std::string tenant;
    bool reflection = false;
    v1::ServerInfo info;
    std::function<v1::Statistics()> statistics;  // called on gRPC's threads
  };

  // `core` outlives the front. INTERNAL where gRPC does not start.
  static absl::StatusOr<std::unique_ptr<GrpcFront>> Start(AttentionCore& core, Options options);

  void HandleConnection(int listener_fd, int fd);  // takes `fd` over
  void SetHealthy(bool healthy);
  // Ends what has not ended by then.
  void Shutdown(std::chrono::system_clock::time_point deadline);

 private:
  GrpcFront(AttentionCore& core, Options options)
      : attention_(core, options.tenant),
        tensors_(core, std::move(options.tenant)),
        about_(std::move(options.info), std::move(options.statistics)) {}

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
