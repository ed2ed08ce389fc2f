// What an operator can set, with defaults; flags and configuration files fill this in.
#ifndef SAGE_SERVER_OPTIONS_H_
#define SAGE_SERVER_OPTIONS_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace sage::server {

// What differs for one tenant; 0 says what it says of all tenants.
struct TenantOptions {
  std::optional<std::uint64_t> tensor_memory_bytes = {};
  std::optional<std::uint64_t> tensors = {};
  std::optional<std::uint64_t> streams = {};
  // Names of client certificates that are the tenant's. Where any tenant has one, certificates that
  // are none's are refused; where none has, a certificate's own name is its tenant.
  std::vector<std::string> certificates = {};
};

struct ServerOptions {
  // HOST:PORT (port 0 picks a free one) or unix:PATH.
  std::vector<std::string> listen = {"127.0.0.1:50051"};
  // Listen beyond loopback although nothing is encrypted.
  bool allow_insecure_remote = false;
  // PEM files of the server's certificate and key: with them, all TCP addresses speak TLS. With
  // client_ca clients show a certificate signed by it; where there are tokens, too, one of either.
  // All are read again when they change.
  std::string tls_certificate;
  std::string tls_key;
  std::string tls_client_ca;
  std::string tokens;  // see TokenFile; empty: none
  // Tenants that may call GetStatistics; empty: the server's own user, and `default` where only
  // this machine is served.
  std::vector<std::string> admins;

  std::string backend = "auto";  // auto, cpu, cuda
  int threads = 0;               // of the CPU backend; 0: one a core
  int streams = 0;               // launches in flight; 0: one on the CPU, four on a GPU

  // Bytes of payload and results, and of kernels' working memory, all requests together. 0: an
  // eighth of the machine's memory; for a device with memory of its own, most of that.
  std::uint64_t host_memory_bytes = 0;
  std::uint64_t device_memory_bytes = 0;
  std::uint64_t window_bytes = 32 << 20;  // payload a client may be ahead of its answers
  std::uint64_t unit_bytes = 2 << 20;     // payload of one unit, about
  std::uint64_t max_mask_bytes = 64 << 20;
  // Bytes of resident tensors that one tenant may keep; 0: half of the device memory. How long they
  // stay unless they are renewed, where the client does not say, and at most.
  std::uint64_t tensor_memory_bytes = 0;
  // Resident tensors of one tenant, and its calls of Attend, AttendStream, Put and Get at a time;
  // 0: no limit.
  std::uint64_t tenant_tensors = 0;
  std::uint64_t tenant_streams = 0;
  std::map<std::string, TenantOptions> tenants;  // by name
  std::chrono::milliseconds tensor_lease{600000};
  std::chrono::milliseconds tensor_max_lease{3600000};
  std::uint64_t max_requests = 256;
  std::uint64_t max_connections = 1024;
  // So old, a connection takes no more requests and its client makes a new one, which balancers may
  // lead to another server. Requests that it has may go on for the grace, which is no shorter than
  // default_deadline; 0: just that.
  std::chrono::milliseconds max_connection_age{1800000};
  std::chrono::milliseconds max_connection_grace{0};

  // A request that would wait longer than this for the device, by estimate, is refused.
  std::chrono::milliseconds max_queue{30000};
  // From its beginning, a request may take this long where its client gives no deadline.
  std::chrono::milliseconds default_deadline{3600000};
  // A peer that keeps the server waiting this long, to read or to write, is ended.
  std::chrono::milliseconds stall_timeout{30000};
  // On SIGTERM: time between turning health off and refusing work, and then for running requests to
  // end.
  std::chrono::milliseconds drain_delay{0};
  std::chrono::milliseconds drain_timeout{30000};

  std::string metrics_listen;  // HOST:PORT of the Prometheus endpoint; empty: none
  // Beyond loopback, too, although it is plain HTTP without credentials.
  bool allow_insecure_metrics = false;
  bool reflection = false;
  std::string port_file;  // the first listening port is written here once the server is ready
  std::string log_level = "info";
};

// OK, or INVALID_ARGUMENT naming the flag, what came and what is allowed.
absl::Status CheckOptions(const ServerOptions& options);

}  // namespace sage::server

#endif  // SAGE_SERVER_OPTIONS_H_
