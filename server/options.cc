#include "server/options.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "config/address.h"
#include "server/tenant_name.h"

namespace sage::server {
namespace {

absl::Status Refuse(const char* flag, const std::string& got, const std::string& allowed) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": got ", got, ", allowed ", allowed));
}

absl::Status CheckCredentials(const ServerOptions& options) {
  if (options.tls_certificate.empty() != options.tls_key.empty()) {
    return options.tls_key.empty() ? Refuse("tls-key", "none", "the key of tls-cert")
                                   : Refuse("tls-cert", "none", "the certificate of tls-key");
  }
  if (!options.tls_client_ca.empty() && options.tls_certificate.empty()) {
    return Refuse("tls-client-ca", "no tls-cert", "both");
  }
  std::map<std::string, std::string> owners;
  for (const auto& [name, tenant] : options.tenants) {
    const absl::Status status = CheckTenantName(name);
    if (!status.ok()) return Refuse("tenant", name, std::string(status.message()));
    for (const std::string& certificate : tenant.certificates) {
      const auto [owner, is_new] = owners.emplace(certificate, name);
      if (is_new) continue;
      return Refuse("tenant", absl::StrCat("certificate ", certificate, " of ", name),
                    absl::StrCat("one tenant, and it is ", owner->second, "'s"));
    }
  }
  // Else nobody would be asked for a certificate, and everybody let in.
  if (!owners.empty() && options.tls_client_ca.empty()) {
    return Refuse("tls-client-ca", "none", "the authority of the certificates of tenants");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckOptions(const ServerOptions& options) {
  if (options.listen.empty()) return Refuse("listen", "nothing", "at least one address");
  for (const std::string& address : options.listen) {
    if (absl::Status status = CheckAddress(address); !status.ok()) return status;
    if (!IsLocal(address) && options.tls_certificate.empty() && !options.allow_insecure_remote) {
      return Refuse(
          "listen", address,
          "addresses of this machine; to serve others, encrypt with --tls-cert and --tls-key, or "
          "say with --allow-insecure-remote that you do not");
    }
  }
  if (!options.metrics_listen.empty() && !IsLocal(options.metrics_listen) &&
      !options.allow_insecure_metrics) {
    return Refuse("metrics-listen", options.metrics_listen,
                  "loopback addresses; to answer others without encryption or credentials, say so "
                  "with --allow-insecure-metrics");
  }
  if (absl::Status status = CheckCredentials(options); !status.ok()) return status;
  if (options.backend != "auto" && options.backend != "cpu" && options.backend != "cuda") {
    return Refuse("backend", options.backend, "auto, cpu, cuda");
  }
  struct Range {
    const char* flag;
    std::int64_t got, least, most;
  };
  constexpr std::int64_t kLongestAge = std::numeric_limits<int>::max();  // as gRPC takes it
  constexpr std::int64_t kManyBytes = std::int64_t{1} << 50;
  const std::array<Range, 14> ranges = {{
      {"threads", options.threads, 0, 4096},
      {"streams", options.streams, 0, 64},
      {"unit", static_cast<std::int64_t>(options.unit_bytes), 1, kManyBytes},
      {"window", static_cast<std::int64_t>(options.window_bytes), 1, kManyBytes},
      {"tensor-lease-ms", options.tensor_lease.count(), 1, options.tensor_max_lease.count()},
      {"tensor-max-lease-ms", options.tensor_max_lease.count(), 1, 31536000000},
      {"max-requests", static_cast<std::int64_t>(options.max_requests), 1, 1 << 20},
      {"max-connections", static_cast<std::int64_t>(options.max_connections), 1, 1 << 20},
      {"max-connection-age-ms", options.max_connection_age.count(), 1, kLongestAge},
      {"max-queue-ms", options.max_queue.count(), 1, 86400000},
      {"default-deadline-ms", options.default_deadline.count(), 1, 31536000000},
      {"stall-timeout-ms", options.stall_timeout.count(), 1, 86400000},
      {"drain-delay-ms", options.drain_delay.count(), 0, 86400000},
      {"drain-timeout-ms", options.drain_timeout.count(), 0, 86400000},
  }};
  for (const Range& range : ranges) {
    if (range.got < range.least || range.got > range.most) {
      return Refuse(range.flag, absl::StrCat(range.got),
                    absl::StrCat(range.least, " to ", range.most));
    }
  }
  const std::int64_t grace = options.max_connection_grace.count();
  const std::int64_t least = std::min(options.default_deadline.count(), kLongestAge);
  if (grace != 0 && (grace < least || grace > kLongestAge)) {
    return Refuse("max-connection-grace-ms", absl::StrCat(grace),
                  absl::StrCat("0, or default-deadline-ms, ", least, ", to ", kLongestAge));
  }
  return absl::OkStatus();
}

}  // namespace sage::server
