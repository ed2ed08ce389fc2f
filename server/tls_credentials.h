// TLS for the server's connections.
#ifndef SAGE_SERVER_TLS_CREDENTIALS_H_
#define SAGE_SERVER_TLS_CREDENTIALS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"

namespace sage::server {

// All PEM files. They are read again every second: handshakes from then on use what is there.
struct TlsFiles {
  std::string certificate;       // the server's, and the chain to its root
  std::string key;               // of the certificate
  std::string client_ca;         // whose certificates clients may show; empty: they are not asked
  bool client_optional = false;  // a client without a certificate passes, too
};

// INVALID_ARGUMENT, beginning with the option that names a file, where one cannot be read or the
// key is not the certificate's.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeTlsCredentials(const TlsFiles& files);

}  // namespace sage::server

#endif  // SAGE_SERVER_TLS_CREDENTIALS_H_
