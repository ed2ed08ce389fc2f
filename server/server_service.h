// The Server service: what this server is and how it is doing.
#ifndef SAGE_SERVER_SERVER_SERVICE_H_
#define SAGE_SERVER_SERVER_SERVICE_H_

#include <functional>
#include <utility>

#include "grpcpp/grpcpp.h"
#include "sage/v1/server.grpc.pb.h"

namespace sage::server {

class ServerService final : public v1::Server::CallbackService {
 public:
  // `statistics` is called on gRPC's threads, several at a time.
  ServerService(v1::ServerInfo info, std::function<v1::Statistics()> statistics)
      : info_(std::move(info)), statistics_(std::move(statistics)) {}

  grpc::ServerUnaryReactor* GetInfo(grpc::CallbackServerContext* context, const v1::GetInfoRequest*,
                                    v1::ServerInfo* response) override {
    *response = info_;
    return FinishOk(context);
  }

  grpc::ServerUnaryReactor* GetStatistics(grpc::CallbackServerContext* context,
                                          const v1::GetStatisticsRequest*,
                                          v1::Statistics* response) override {
    *response = statistics_();
    return FinishOk(context);
  }

 private:
  static grpc::ServerUnaryReactor* FinishOk(grpc::CallbackServerContext* context) {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  const v1::ServerInfo info_;
  const std::function<v1::Statistics()> statistics_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_SERVER_SERVICE_H_
