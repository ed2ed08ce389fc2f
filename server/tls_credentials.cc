#include "server/tls_credentials.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "openssl/evp.h"
#include "openssl/pem.h"
#include "openssl/x509.h"

namespace sage::server {
namespace {

constexpr unsigned int kReloadSeconds = 1;

template <auto free>
struct Freer {
  template <typename Object>
  void operator()(Object* object) const {
    free(object);
  }
};
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;

absl::Status RefuseFile(const char* option, const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(option, ": ", path, ": ", why));
}

// The first object of a PEM file, as `read` gives it.
template <typename Object, typename Read>
absl::StatusOr<Object> ReadPem(const char* option, const std::string& path, const char* what,
                               Read read) {
  const std::unique_ptr<FILE, Freer<std::fclose>> file(std::fopen(path.c_str(), "re"));
  if (file == nullptr) return RefuseFile(option, path, std::strerror(errno));
  Object object(read(file.get(), nullptr, nullptr, nullptr));
  if (object == nullptr)
    return RefuseFile(option, path, absl::StrCat("holds no ", what, " in PEM"));
  return object;
}

absl::StatusOr<Certificate> ReadCertificate(const char* option, const std::string& path) {
  absl::StatusOr<Certificate> certificate =
      ReadPem<Certificate>(option, path, "certificate", PEM_read_X509);
  if (certificate.ok() && X509_cmp_current_time(X509_get0_notAfter(certificate->get())) < 0) {
    return RefuseFile(option, path, "has expired");
  }
  return certificate;
}

// gRPC itself says what is wrong in its log alone, and refuses every connection.
absl::Status Check(const TlsFiles& files) {
  const absl::StatusOr<Certificate> certificate = ReadCertificate("tls-cert", files.certificate);
  if (!certificate.ok()) return certificate.status();
  // Without a callback OpenSSL would ask the terminal for the pass phrase of an encrypted key.
  const auto no_pass_phrase = [](char*, int, int, void*) { return -1; };
  const absl::StatusOr<Key> key = ReadPem<Key>(
      "tls-key", files.key, "private key without a pass phrase", [&](FILE* file, auto, auto, auto) {
        return PEM_read_PrivateKey(file, nullptr, no_pass_phrase, nullptr);
      });
  if (!key.ok()) return key.status();
  if (X509_check_private_key(certificate->get(), key->get()) != 1) {
    return RefuseFile("tls-key", files.key, absl::StrCat("is not the key of ", files.certificate));
  }
  if (files.client_ca.empty()) return absl::OkStatus();
  return ReadCertificate("tls-client-ca", files.client_ca).status();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeTlsCredentials(const TlsFiles& files) {
  if (absl::Status status = Check(files); !status.ok()) return status;
  grpc::experimental::TlsServerCredentialsOptions options(
      std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
          files.key, files.certificate, files.client_ca, kReloadSeconds));
  options.watch_identity_key_cert_pairs();
  if (!files.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(files.client_optional
                                      ? GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY
                                      : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

}  // namespace sage::server
