#include "server/grpc_front.h"

#include <utility>
#include <vector>

#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/server_builder_plugin.h"

namespace sage::server {
namespace {

constexpr int kStreamsToSpare = 64;
constexpr int kHandshakeTimeoutMs = 10000;

// Linking gRPC's reflection is enough to serve it; this takes it out again.
class WithoutReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins,
                  [](const auto& plugin) { return plugin->name() == "proto_server_reflection"; });
  }
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcFront>> GrpcFront::Start(AttentionCore& core, Callers callers,
                                                            Options options) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  if (!options.reflection) builder.SetOption(std::make_unique<WithoutReflection>());
  std::unique_ptr<GrpcFront> front(
      new GrpcFront(core, std::move(callers), std::move(options.about)));
  builder.RegisterService(&front->attention_);
  builder.RegisterService(&front->tensors_);
  builder.RegisterService(&front->sessions_);
  builder.RegisterService(&front->about_);
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // Calls beyond these would wait in the client, unseen, while their deadlines pass: what is too
  // much is to come here and be refused.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             options.max_requests + kStreamsToSpare);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                             static_cast<int>(options.max_connection_age.count()));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
                             static_cast<int>(options.max_connection_grace.count()));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  // A small compressed message can expand to a very large one; tensors do not compress anyway.
  for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
  front->sink_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, options.credentials);
  front->grpc_ = builder.BuildAndStart();
  if (front->grpc_ == nullptr) return absl::InternalError("the gRPC server did not start");
  return front;
}

void GrpcFront::HandleConnection(int listener_fd, int fd) {
  grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
  connection.listener_fd = listener_fd;
  connection.fd = fd;
  sink_->HandleNewConnection(&connection);
}

void GrpcFront::SetHealthy(bool healthy) {
  grpc_->GetHealthCheckService()->SetServingStatus(healthy);
}

void GrpcFront::Shutdown(std::chrono::system_clock::time_point deadline) {
  grpc_->Shutdown(deadline);
}

}  // namespace sage::server
