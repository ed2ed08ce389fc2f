#include "server/authenticator.h"

#include <cstddef>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "grpc/grpc_security_constants.h"
#include "server/tenant_name.h"

namespace sage::server {
namespace {

constexpr char kAuthorization[] = "authorization";
constexpr absl::string_view kBearer = "bearer ";

// Of the certificate that gRPC has verified; none where the client has shown none.
std::vector<std::string> CertificateNames(const grpc::AuthContext& connection) {
  std::vector<std::string> names;
  for (const char* property : {GRPC_X509_SAN_PROPERTY_NAME, GRPC_X509_CN_PROPERTY_NAME}) {
    for (const grpc::string_ref& name : connection.FindPropertyValues(property)) {
      names.emplace_back(name.data(), name.size());
    }
    if (!names.empty()) break;
  }
  return names;
}

}  // namespace

absl::StatusOr<std::string> Authenticator::TenantOf(const grpc::ServerContextBase& call,
                                                    const std::string& otherwise) const {
  const auto [begin, end] = call.client_metadata().equal_range(kAuthorization);
  if (begin != end) {
    if (std::next(begin) != end) {
      return absl::UnauthenticatedError("authorization: given more than once");
    }
    return TenantOfToken(begin->second);
  }
  const std::vector<std::string> names = CertificateNames(*call.auth_context());
  if (!names.empty()) return TenantOfCertificate(names);
  if (!otherwise.empty()) return otherwise;
  return absl::UnauthenticatedError(
      "authorization: missing; this server wants 'Bearer TOKEN', or a client certificate where it "
      "takes those");
}

absl::StatusOr<std::string> Authenticator::TenantOfToken(grpc::string_ref authorization) const {
  absl::string_view token(authorization.data(), authorization.size());
  if (!absl::StartsWithIgnoreCase(token, kBearer)) {
    return absl::UnauthenticatedError("authorization: allowed 'Bearer TOKEN'");
  }
  token.remove_prefix(kBearer.size());
  std::optional<std::string> tenant;
  if (options_.tokens != nullptr) tenant = options_.tokens->TenantOf(token);
  if (!tenant.has_value()) return absl::UnauthenticatedError("authorization: no such token");
  return *std::move(tenant);
}

absl::StatusOr<std::string> Authenticator::TenantOfCertificate(
    const std::vector<std::string>& names) const {
  if (options_.certificates.empty() && CheckTenantName(names.front()).ok()) return names.front();
  for (const std::string& name : names) {
    const auto found = options_.certificates.find(name);
    if (found != options_.certificates.end()) return found->second;
  }
  return absl::PermissionDeniedError("the client's certificate is no tenant's of this server");
}

}  // namespace sage::server
