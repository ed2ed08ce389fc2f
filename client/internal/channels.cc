#include "client/internal/channels.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/internal/token_source.h"
#include "config/address.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_credentials_options.h"

namespace sage::internal {
namespace {

constexpr int kMaxReceiveMessageBytes = 8 << 20;
// No call is repeated that a server may have begun: nobody gives a policy. But one that meets the
// end of its connection, before anybody has read it, goes over the next one, if all of it is still
// there: a message, or a header with its mask. gRPC keeps what it was lent, and copies nothing.
constexpr int kRetryBytes = 12 << 20;
constexpr int kKeepaliveTimeMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr unsigned int kReloadSeconds = 1;

// Calls take turns over the servers behind a name. One that drains, or has lost its device, says so
// by its health and gets no more of them; one that is back is found again soon.
constexpr char kTakeTurns[] =
    R"({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}})";
constexpr int kInitialBackoffMs = 200;
constexpr int kMaxBackoffMs = 5'000;

absl::Status CheckReadable(const char* option, const std::string& path) {
  errno = 0;
  if (path.empty() || std::ifstream(path).good()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": cannot read ", path, ": ", std::strerror(errno)));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeTls(const TlsOptions& tls) {
  if (tls.certificate.empty() != tls.key.empty()) {
    return absl::InvalidArgumentError("tls: a certificate and its key go together");
  }
  absl::Status status = CheckReadable("tls.root_certificates", tls.root_certificates);
  status.Update(CheckReadable("tls.certificate", tls.certificate));
  status.Update(CheckReadable("tls.key", tls.key));
  if (!status.ok()) return status;
  grpc::experimental::TlsChannelCredentialsOptions options;
  if (!tls.root_certificates.empty() || !tls.key.empty()) {
    options.set_certificate_provider(
        std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
            tls.key, tls.certificate, tls.root_certificates, kReloadSeconds));
  }
  if (!tls.root_certificates.empty()) options.watch_root_certs();
  if (!tls.key.empty()) options.watch_identity_key_cert_pairs();
  return grpc::experimental::TlsCredentials(options);
}

// Adds the token to every call. gRPC's own call credentials refuse unencrypted connections, those
// to this machine included.
class TokenInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit TokenInterceptor(TokenSource& token) : token_(token) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization",
                                                 absl::StrCat("Bearer ", token_.Get()));
    }
    methods->Proceed();
  }

 private:
  TokenSource& token_;
};

class TokenInterceptorFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit TokenInterceptorFactory(std::shared_ptr<TokenSource> token) : token_(std::move(token)) {}

  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* /*call*/) override {
    return new TokenInterceptor(*token_);
  }

 private:
  const std::shared_ptr<TokenSource> token_;
};

}  // namespace

absl::Status CheckOneServer(const std::string& target) {
  if (!absl::StartsWith(target, "dns:") && !absl::StartsWith(target, "ipv4:") &&
      !absl::StartsWith(target, "ipv6:")) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat("target: ", target,
                   " is several servers; tensors and statistics are of one, connect to its "
                   "host:port"));
}

absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> OpenChannels(
    const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxReceiveMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, kRetryBytes);
  // Its own connection, not one shared with other clients of the process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (!CheckOneServer(options.target).ok()) {
    arguments.SetServiceConfigJSON(kTakeTurns);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kInitialBackoffMs);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kInitialBackoffMs);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxBackoffMs);
  }

  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (options.tls.has_value()) {
    absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> tls = MakeTls(*options.tls);
    if (!tls.ok()) return tls.status();
    credentials = *std::move(tls);
  }

  std::shared_ptr<TokenSource> token;
  if (!options.token.empty() || !options.token_file.empty()) {
    if (!options.tls.has_value()) {
      if (!IsLocal(options.target)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "token: not sent unencrypted to ", options.target,
            "; use TLS (allowed without it: unix:/PATH and loopback addresses of this machine)"));
      }
      arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // which may be elsewhere
    }
    absl::StatusOr<std::shared_ptr<TokenSource>> source =
        TokenSource::Open(options.token, options.token_file);
    if (!source.ok()) return source.status();
    token = *std::move(source);
  }

  std::vector<std::shared_ptr<grpc::Channel>> channels;
  channels.reserve(options.connections);
  for (int i = 0; i < options.connections; ++i) {
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>>
        interceptors;
    if (token != nullptr) interceptors.push_back(std::make_unique<TokenInterceptorFactory>(token));
    channels.push_back(grpc::experimental::CreateCustomChannelWithInterceptors(
        options.target, credentials, arguments, std::move(interceptors)));
  }
  return channels;
}

}  // namespace sage::internal
