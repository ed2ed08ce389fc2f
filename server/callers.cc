#include "server/callers.h"

#include "spdlog/spdlog.h"

namespace sage::server {

absl::StatusOr<Tenant*> Callers::TenantOf(const grpc::ServerContextBase& call) const {
  const absl::StatusOr<std::string> name = authenticator_.TenantOf(call, otherwise_);
  if (!name.ok()) {
    if (const auto left_out = log_limiter_->Take(); left_out.has_value()) {
      spdlog::warn("event=caller_refused peer={} code={} left_out={} message=\"{}\"", call.peer(),
                   absl::StatusCodeToString(name.status().code()), *left_out,
                   std::string(name.status().message()));
    }
    return name.status();
  }
  return &tenants_.Of(*name);
}

absl::StatusOr<Caller> Callers::Admit(const grpc::ServerContextBase& call) const {
  const absl::StatusOr<Tenant*> tenant = TenantOf(call);
  if (!tenant.ok()) return tenant.status();
  absl::StatusOr<Account::Reservation> stream = (*tenant)->OpenStream();
  if (!stream.ok()) return stream.status();
  return Caller{**tenant, *std::move(stream)};
}

}  // namespace sage::server
