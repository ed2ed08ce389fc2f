#include "server/command_line.h"

#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "server/version.h"

namespace sage::server {
namespace {

constexpr int kBadUsage = 2;

constexpr char kFooter[] =
    R"(Sizes take suffixes: 512MiB, 4GiB. A configuration file holds the same names, one a line:

  listen = ["127.0.0.1:50051"]
  backend = "cpu"
  host-memory = "4GiB"

Examples:
  sage-server
  sage-server --listen 127.0.0.1:0 --port-file /run/sage/port --metrics-listen 127.0.0.1:9464
  sage-server --listen unix:/run/sage/sage.sock --backend cuda
)";

}  // namespace

ParsedCommandLine ParseCommandLine(int argc, char** argv) {
  ParsedCommandLine parsed;
  ServerOptions& o = parsed.options;
  CLI::App app{"Serves block-sparse attention over gRPC.", "sage-server"};
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("sage-server ") + kVersion);
  app.set_config("--config", "", "Read options from this file; flags win over it");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.option_defaults()->always_capture_default();

  const auto bytes = CLI::AsSizeValue(/*kb_is_1000=*/false);
  std::int64_t stall_ms = o.stall_timeout.count();
  std::int64_t tensor_lease_ms = o.tensor_lease.count();
  std::int64_t tensor_max_lease_ms = o.tensor_max_lease.count();
  std::int64_t drain_delay_ms = o.drain_delay.count();
  std::int64_t drain_timeout_ms = o.drain_timeout.count();

  app.add_option("--listen", o.listen, "HOST:PORT (port 0: any free one) or unix:PATH; repeatable")
      ->group("Network");
  app.add_flag("--allow-insecure-remote", o.allow_insecure_remote,
               "Listen beyond this machine without encryption or credentials")
      ->group("Network");
  app.add_option("--max-connections", o.max_connections, "Connections at a time; more are closed")
      ->group("Network");
  app.add_option("--stall-timeout-ms", stall_ms,
                 "End a stream whose client neither reads nor writes for so long")
      ->group("Network");
  app.add_flag("--reflection", o.reflection, "Serve gRPC reflection")->group("Network");
  app.add_option("--port-file", o.port_file, "Write the TCP port here once ready")
      ->group("Network");

  app.add_option("--backend", o.backend, "auto, cpu or cuda")->group("Device");
  app.add_option("--threads", o.threads, "Threads of the CPU backend; 0: one a core")
      ->group("Device");
  app.add_option("--streams", o.streams, "Launches in flight; 0: one on the CPU, four on a GPU")
      ->group("Device");

  app.add_option("--host-memory", o.host_memory_bytes,
                 "For payload and results of all requests; 0: an eighth of the machine's")
      ->transform(bytes)
      ->group("Memory");
  app.add_option("--device-memory", o.device_memory_bytes,
                 "For kernels' working memory; 0: an eighth of the machine's, or most of the GPU's")
      ->transform(bytes)
      ->group("Memory");
  app.add_option("--window", o.window_bytes, "Payload that a client may be ahead of its answers")
      ->transform(bytes)
      ->group("Memory");
  app.add_option("--unit", o.unit_bytes, "Payload of one unit of work, about")
      ->transform(bytes)
      ->group("Memory");
  app.add_option("--max-mask", o.max_mask_bytes, "Size of one packed block mask")
      ->transform(bytes)
      ->group("Memory");
  app.add_option("--tensor-memory", o.tensor_memory_bytes,
                 "Resident tensors of one tenant; 0: half of the device memory")
      ->transform(bytes)
      ->group("Memory");
  app.add_option("--tensor-lease-ms", tensor_lease_ms,
                 "How long a resident tensor stays unless renewed, where its client does not say")
      ->group("Memory");
  app.add_option("--tensor-max-lease-ms", tensor_max_lease_ms, "The longest lease that is granted")
      ->group("Memory");
  app.add_option("--max-requests", o.max_requests, "Requests at a time; more are refused")
      ->group("Memory");

  app.add_option("--metrics-listen", o.metrics_listen,
                 "HOST:PORT of the Prometheus endpoint; empty: none")
      ->group("Operation");
  app.add_option("--drain-delay-ms", drain_delay_ms,
                 "On SIGTERM, serve on for so long after health has turned off")
      ->group("Operation");
  app.add_option("--drain-timeout-ms", drain_timeout_ms, "Then wait so long for running requests")
      ->group("Operation");
  app.add_option("--log-level", o.log_level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->group("Operation");

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, std::cout, std::cerr);
    parsed.exit_status = code == 0 ? 0 : kBadUsage;
    return parsed;
  }
  o.stall_timeout = std::chrono::milliseconds(stall_ms);
  o.tensor_lease = std::chrono::milliseconds(tensor_lease_ms);
  o.tensor_max_lease = std::chrono::milliseconds(tensor_max_lease_ms);
  o.drain_delay = std::chrono::milliseconds(drain_delay_ms);
  o.drain_timeout = std::chrono::milliseconds(drain_timeout_ms);
  if (const absl::Status status = CheckOptions(o); !status.ok()) {
    std::cerr << "sage-server: " << status.message() << "\nRun with --help for more information.\n";
    parsed.exit_status = kBadUsage;
  }
  return parsed;
}

}  // namespace sage::server
