// The Server service: what this server is and how it is doing.
#ifndef SAGE_SERVER_SERVER_SERVICE_H_
#define SAGE_SERVER_SERVER_SERVICE_H_

#include <functional>
#include <set>
#include <string>
#include <utility>

#include "grpcpp/grpcpp.h"
#include "sage/v1/server.grpc.pb.h"
#include "server/callers.h"

namespace sage::server {

class ServerService final : public v1::Server::CallbackService {
 public:
  struct Options {
    v1::ServerInfo info;                         // what is the same for all tenants
    std::function<v1::Statistics()> statistics;  // called on gRPC's threads, several at a time
    std::set<std::string> admins;                // tenants that may ask for statistics
  };

  ServerService(const Callers& callers, Options options)
      : callers_(callers), options_(std::move(options)) {}

  grpc::ServerUnaryReactor* GetInfo(grpc::CallbackServerContext* context,
                                    const v1::GetInfoRequest* request,
                                    v1::ServerInfo* response) override;
  // PERMISSION_DENIED for a tenant that is no admin.
  grpc::ServerUnaryReactor* GetStatistics(grpc::CallbackServerContext* context,
                                          const v1::GetStatisticsRequest* request,
                                          v1::Statistics* response) override;

 private:
  const Callers& callers_;
  const Options options_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_SERVER_SERVICE_H_
