#include "server/server_service.h"

#include "absl/strings/str_cat.h"
#include "server/grpc_status.h"

namespace sage::server {
namespace {

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

// 0 on the wire where there is none.
std::uint64_t ToProto(std::uint64_t limit) { return limit == TenantLimits::kNone ? 0 : limit; }

}  // namespace

grpc::ServerUnaryReactor* ServerService::GetInfo(grpc::CallbackServerContext* context,
                                                 const v1::GetInfoRequest* /*request*/,
                                                 v1::ServerInfo* response) {
  const absl::StatusOr<Tenant*> tenant = callers_.TenantOf(*context);
  if (!tenant.ok()) return Finish(context, tenant.status());
  *response = options_.info;
  response->set_tenant((*tenant)->name());
  v1::Limits& limits = *response->mutable_limits();
  limits.set_tensor_memory_bytes(ToProto((*tenant)->tensor_bytes().limit()));
  limits.set_max_tensors(ToProto((*tenant)->tensors().limit()));
  limits.set_max_streams(ToProto((*tenant)->max_streams()));
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ServerService::GetStatistics(grpc::CallbackServerContext* context,
                                                       const v1::GetStatisticsRequest* /*request*/,
                                                       v1::Statistics* response) {
  const absl::StatusOr<Tenant*> tenant = callers_.TenantOf(*context);
  if (!tenant.ok()) return Finish(context, tenant.status());
  if (options_.admins.count((*tenant)->name()) == 0) {
    return Finish(context, absl::PermissionDeniedError(
                               absl::StrCat("GetStatistics: tenant ", (*tenant)->name(),
                                            " is not one of this server's admins")));
  }
  *response = options_.statistics();
  return Finish(context, absl::OkStatus());
}

}  // namespace sage::server
