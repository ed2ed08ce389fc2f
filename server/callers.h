// Who calls over the connections of one gRPC server.
#ifndef SAGE_SERVER_CALLERS_H_
#define SAGE_SERVER_CALLERS_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "server/authenticator.h"
#include "server/log_limiter.h"
#include "server/tenants.h"

namespace sage::server {

// Thread-safe; what it refers to outlives it.
class Callers {
 public:
  // `otherwise` is whose calls without credentials are; see Authenticator.
  Callers(const Authenticator& authenticator, Tenants& tenants, std::string otherwise)
      : authenticator_(authenticator), tenants_(tenants), otherwise_(std::move(otherwise)) {}

  // Errors as Authenticator has them, which it logs, a few each second.
  absl::StatusOr<Tenant*> TenantOf(const grpc::ServerContextBase& call) const;
  // Also takes one of the tenant's places; RESOURCE_EXHAUSTED where all are taken.
  absl::StatusOr<Caller> Admit(const grpc::ServerContextBase& call) const;

 private:
  const Authenticator& authenticator_;
  Tenants& tenants_;
  const std::string otherwise_;
  const std::shared_ptr<LogLimiter> log_limiter_ = std::make_shared<LogLimiter>();
};

}  // namespace sage::server

#endif  // SAGE_SERVER_CALLERS_H_
