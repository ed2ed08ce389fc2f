#include "server/health_probe.h"

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_certificate_verifier.h"
#include "grpcpp/security/tls_credentials_options.h"

namespace sage::server {
namespace {

constexpr std::chrono::seconds kPatience{5};

// HealthCheckResponse { status: SERVING }, in all its bytes: the messages of grpc.health.v1 come
// with gRPC's server but not with its headers.
constexpr char kServing[] = "\x08\x01";

std::string ToString(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string text;
  if (!buffer.Dump(&slices).ok()) return text;
  for (const grpc::Slice& slice : slices) {
    text.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return text;
}

std::shared_ptr<grpc::ChannelCredentials> CredentialsFor(const std::string& target,
                                                         const ServerOptions& options) {
  if (options.tls_certificate.empty() || absl::StartsWith(target, "unix:")) {
    return grpc::InsecureChannelCredentials();
  }
  grpc::experimental::TlsChannelCredentialsOptions tls;
  tls.set_verify_server_certs(false);
  tls.set_check_call_host(false);
  tls.set_certificate_verifier(std::make_shared<grpc::experimental::NoOpCertificateVerifier>());
  if (!options.tls_client_ca.empty()) {
    tls.set_certificate_provider(
        std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
            options.tls_key, options.tls_certificate, /*root_cert_path=*/"",
            /*refresh_interval_sec=*/1));
    tls.watch_identity_key_cert_pairs();
  }
  return grpc::experimental::TlsCredentials(tls);
}

}  // namespace

absl::Status ProbeHealth(const std::string& target, const ServerOptions& options) {
  grpc::GenericStub stub(grpc::CreateChannel(target, CredentialsFor(target, options)));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kPatience);
  const grpc::Slice nothing;
  const grpc::ByteBuffer request(&nothing, 1);
  grpc::ByteBuffer response;
  grpc::Status status;
  grpc::CompletionQueue queue;
  const auto call =
      stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", request, &queue);
  call->StartCall();
  call->Finish(&response, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) {
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        absl::StrCat(target, ": ", status.error_message()));
  }
  if (ToString(response) == kServing) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(target, ": not serving"));
}

}  // namespace sage::server
