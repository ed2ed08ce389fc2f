#include "server/command_line.h"

#include <chrono>
#include <cstdint>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "config/toml_reader.h"
#include "server/tenant_name.h"
#include "server/token_file.h"
#include "server/version.h"

namespace sage::server {
namespace {

constexpr int kFailed = 1;
constexpr int kBadUsage = 2;

constexpr char kFooter[] =
    R"(Sizes take suffixes: 512MiB, 4GiB. A configuration file is TOML and holds the same names:

  listen = ["127.0.0.1:50051"]
  backend = "cpu"
  host-memory = "4GiB"

and what differs for one tenant:

  [tenant.team-a]
  tensor-memory = "8GiB"
  tensors = 1000
  streams = 16
  certificates = ["spiffe://lab/team-a"]   # names of client certificates that are its own

Examples:
  sage-server
  sage-server --listen 127.0.0.1:0 --port-file /run/sage/port --metrics-listen 127.0.0.1:9464
  sage-server --listen unix:/run/sage/sage.sock --backend cuda
  sage-server --health-check 127.0.0.1:50051
  sage-server make-token team-a --tokens tokens.toml > team-a.token
  sage-server --listen 0.0.0.0:50051 --tls-cert cert.pem --tls-key key.pem --tokens tokens.toml
)";

CLI::AsSizeValue Bytes() { return CLI::AsSizeValue(/*kb_is_1000=*/false); }

// Prints a new token; the exit status.
int MakeToken(const std::string& path, const std::string& tenant) {
  const absl::StatusOr<std::string> token =
      path.empty() ? absl::InvalidArgumentError("give the file of its entry by --tokens")
                   : AddToken(path, tenant);
  if (!token.ok()) {
    std::cerr << "sage-server make-token: " << token.status().message() << '\n';
    return absl::IsInvalidArgument(token.status()) ? kBadUsage : kFailed;
  }
  std::cout << *token << '\n';
  return 0;
}

// Whether an option is a key of the configuration file, too.
bool IsSetting(const CLI::Option& option) {
  const std::string& name = option.get_single_name();
  return name != "help" && name != "version" && name != "config" && name != "health-check";
}

// The configuration file, for the options that are not among the flags.
class SettingsFile {
 public:
  SettingsFile(CLI::App& app, TomlTable file) : app_(app), file_(std::move(file)) {}

  // Sets them.
  void Read() {
    for (CLI::Option* option : app_.get_options()) {
      if (!IsSetting(*option)) continue;
      const std::string key = option->get_single_name();
      const std::vector<std::string> values = file_.Texts(key);
      if (values.empty() || option->count() > 0) continue;
      from_file_.insert(key);
      try {
        for (const std::string& value : values) option->add_result(value);
        option->run_callback();
      } catch (const CLI::Error& error) {
        file_.Refuse(key, error.what());
      }
    }
  }

  // The tables of tenants.
  std::map<std::string, TenantOptions> ReadTenants() {
    std::map<std::string, TenantOptions> tenants;
    for (auto& [name, table] : file_.NamedTables("tenant")) {
      TenantOptions& tenant = tenants[name];
      tenant.tensor_memory_bytes = ReadSize(table, "tensor-memory");
      tenant.tensors = ReadSize(table, "tensors");
      tenant.streams = ReadSize(table, "streams");
      table.Read("certificates", &tenant.certificates);
      if (absl::Status status = CheckTenantName(name); !status.ok()) {
        file_.Refuse("tenant", std::string(status.message()));
      }
      tables_.push_back(table);
    }
    return tenants;
  }

  // What is wrong with the file, `checked` included, which says so of the options that are now set.
  absl::Status Finish(const absl::Status& checked) {
    const std::pair<std::string, std::string> refusal =  // KEY: what is wrong
        absl::StrSplit(checked.message(), absl::MaxSplits(": ", 1));
    if (from_file_.count(refusal.first) > 0) file_.Refuse(refusal.first, refusal.second);
    absl::Status status = file_.Finish();
    for (const TomlTable& table : tables_) status.Update(table.Finish());
    return status.ok() ? checked : status;
  }

 private:
  static std::optional<std::uint64_t> ReadSize(TomlTable& table, const std::string& key) {
    const std::vector<std::string> values = table.Texts(key);
    if (values.empty()) return std::nullopt;
    std::string text = values.front();
    std::string error;
    try {
      error = Bytes()(text);
    } catch (const CLI::Error& unknown_unit) {
      error = unknown_unit.what();
    }
    std::uint64_t size = 0;
    if (values.size() > 1 || !error.empty() || !absl::SimpleAtoi(text, &size)) {
      table.Refuse(key, "must be a whole number, or a size such as \"4GiB\"");
    }
    return size;
  }

  CLI::App& app_;
  TomlTable file_;
  std::vector<TomlTable> tables_;
  std::set<std::string> from_file_;
};

// Checks the options, once those of the file, if there is one, are set.
absl::Status Complete(CLI::App& app, const std::string& path, ServerOptions& options) {
  if (path.empty()) return CheckOptions(options);
  absl::StatusOr<TomlTable> table = TomlTable::Open(path);
  if (!table.ok()) return table.status();
  SettingsFile file(app, *std::move(table));
  file.Read();
  options.tenants = file.ReadTenants();
  return file.Finish(CheckOptions(options));
}

}  // namespace

ParsedCommandLine ParseCommandLine(int argc, char** argv) {
  ParsedCommandLine parsed;
  ServerOptions& o = parsed.options;
  CLI::App app{"Serves block-sparse attention over gRPC.", "sage-server"};
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("sage-server ") + kVersion);
  std::string config;
  app.add_option("--config", config, "Read options from this file; flags win over it");
  app.add_option("--health-check", parsed.health_check,
                 "Only ask the server at unix:PATH or HOST:PORT, which has these options, for its "
                 "health: exit "
                 "status 0 or 1");
  app.option_defaults()->always_capture_default();

  const auto add_milliseconds = [&](const std::string& flag, std::chrono::milliseconds& value,
                                    const std::string& description) {
    return app
        .add_option_function<std::int64_t>(
            flag, [&value](std::int64_t ms) { value = std::chrono::milliseconds(ms); }, description)
        ->default_str(std::to_string(value.count()));
  };

  app.add_option("--listen", o.listen, "HOST:PORT (port 0: any free one) or unix:PATH; repeatable")
      ->group("Network");
  app.add_flag("--allow-insecure-remote", o.allow_insecure_remote,
               "Listen beyond this machine without encryption")
      ->group("Network");
  app.add_option("--max-connections", o.max_connections, "Connections at a time; more are closed")
      ->group("Network");
  add_milliseconds("--max-connection-age-ms", o.max_connection_age,
                   "Then ask a client to connect anew, maybe to another server")
      ->group("Network");
  add_milliseconds(
      "--max-connection-grace-ms", o.max_connection_grace,
      "How long its requests may still take on the old one; 0: as --default-deadline-ms")
      ->group("Network");
  add_milliseconds("--stall-timeout-ms", o.stall_timeout,
                   "End a stream whose client neither reads nor writes for so long")
      ->group("Network");
  app.add_flag("--reflection", o.reflection, "Serve gRPC reflection")->group("Network");
  app.add_option("--port-file", o.port_file, "Write the TCP port here once ready")
      ->group("Network");

  app.add_option("--tls-cert", o.tls_certificate,
                 "The server's certificate chain, PEM: TCP addresses speak TLS")
      ->group("Security");
  app.add_option("--tls-key", o.tls_key, "Its private key, PEM")->group("Security");
  app.add_option(
         "--tls-client-ca", o.tls_client_ca,
         "Clients show a certificate signed by one of these, PEM (with --tokens: or a token)")
      ->group("Security");
  app.add_option("--tokens", o.tokens,
                 "TOML file of token hashes; clients over TCP show a token. See make-token")
      ->group("Security");
  app.add_option(
         "--admin", o.admins,
         "Tenant that may call GetStatistics, repeatable [this user; default where only this "
         "machine is served]")
      ->group("Security");
  app.add_option("--tenant-tensors", o.tenant_tensors,
                 "Resident tensors of a tenant; 0: any number")
      ->group("Security");
  app.add_option("--tenant-streams", o.tenant_streams,
                 "Calls of a tenant at a time that carry tensors; 0: any number")
      ->group("Security");

  app.add_option("--backend", o.backend, "auto, cpu or cuda")->group("Device");
  app.add_option("--threads", o.threads, "Threads of the CPU backend; 0: one a core")
      ->group("Device");
  app.add_option("--streams", o.streams, "Launches in flight; 0: one on the CPU, four on a GPU")
      ->group("Device");

  app.add_option("--host-memory", o.host_memory_bytes,
                 "For payload and results of all requests; 0: an eighth of the machine's")
      ->transform(Bytes())
      ->group("Memory");
  app.add_option("--device-memory", o.device_memory_bytes,
                 "For kernels' working memory; 0: an eighth of the machine's, or most of the GPU's")
      ->transform(Bytes())
      ->group("Memory");
  app.add_option("--window", o.window_bytes, "Payload that a client may be ahead of its answers")
      ->transform(Bytes())
      ->group("Memory");
  app.add_option("--unit", o.unit_bytes, "Payload of one unit of work, about")
      ->transform(Bytes())
      ->group("Memory");
  app.add_option("--max-mask", o.max_mask_bytes, "Size of one packed block mask")
      ->transform(Bytes())
      ->group("Memory");
  app.add_option("--tensor-memory", o.tensor_memory_bytes,
                 "Resident tensors of one tenant; 0: half of the device memory")
      ->transform(Bytes())
      ->group("Memory");
  add_milliseconds("--tensor-lease-ms", o.tensor_lease,
                   "How long a resident tensor stays unless renewed, where its client does not say")
      ->group("Memory");
  add_milliseconds("--tensor-max-lease-ms", o.tensor_max_lease, "The longest lease that is granted")
      ->group("Memory");
  app.add_option("--max-requests", o.max_requests, "Requests at a time; more are refused")
      ->group("Queue");
  add_milliseconds("--max-queue-ms", o.max_queue,
                   "Refuse requests that would wait longer than this for the device, by estimate")
      ->group("Queue");
  add_milliseconds("--default-deadline-ms", o.default_deadline,
                   "How long a request may take where its client gives no deadline")
      ->group("Queue");

  app.add_option("--metrics-listen", o.metrics_listen,
                 "HOST:PORT of the Prometheus endpoint; empty: none")
      ->group("Operation");
  app.add_flag("--allow-insecure-metrics", o.allow_insecure_metrics,
               "Serve metrics beyond this machine, without encryption or credentials")
      ->group("Operation");
  add_milliseconds("--drain-delay-ms", o.drain_delay,
                   "On SIGTERM, serve on for so long after health has turned off")
      ->group("Operation");
  add_milliseconds("--drain-timeout-ms", o.drain_timeout, "Then wait so long for running requests")
      ->group("Operation");
  app.add_option("--log-level", o.log_level, "trace, debug, info, warn, error or off")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error", "off"}))
      ->group("Operation");

  std::string tenant;
  CLI::App* const make_token = app.add_subcommand(
      "make-token", "Print a new token for a tenant, and add its hash to the file of --tokens");
  make_token->add_option("tenant", tenant, "Name of the tenant")->required();
  make_token->fallthrough();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error, std::cout, std::cerr);
    parsed.exit_status = code == 0 ? 0 : kBadUsage;
    return parsed;
  }
  if (make_token->parsed()) {
    parsed.exit_status = MakeToken(o.tokens, tenant);
    return parsed;
  }
  if (const absl::Status status = Complete(app, config, o); !status.ok()) {
    std::cerr << "sage-server: " << status.message() << "\nRun with --help for more information.\n";
    parsed.exit_status = kBadUsage;
  }
  return parsed;
}

}  // namespace sage::server
