// Who makes a call: the tenant of its token, of its connection's certificate, or of its socket.
#ifndef SAGE_SERVER_AUTHENTICATOR_H_
#define SAGE_SERVER_AUTHENTICATOR_H_

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "server/token_file.h"

namespace sage::server {

// Thread-safe.
class Authenticator {
 public:
  struct Options {
    std::unique_ptr<TokenFile> tokens;  // null: there are none
    // Tenants by a name of their certificates. Empty: a certificate's first name is its tenant.
    std::map<std::string, std::string> certificates;
  };

  explicit Authenticator(Options options) : options_(std::move(options)) {}

  // A token in the metadata ("authorization: Bearer TOKEN") decides; else the certificate that the
  // connection was opened with: its subject alternative names, or its common name where it has
  // none; else `otherwise`, empty where calls need credentials. UNAUTHENTICATED for no or bad
  // credentials, PERMISSION_DENIED for a certificate that is no tenant's.
  absl::StatusOr<std::string> TenantOf(const grpc::ServerContextBase& call,
                                       const std::string& otherwise) const;

 private:
  absl::StatusOr<std::string> TenantOfToken(grpc::string_ref authorization) const;
  absl::StatusOr<std::string> TenantOfCertificate(const std::vector<std::string>& names) const;

  const Options options_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_AUTHENTICATOR_H_
