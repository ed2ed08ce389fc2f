#include "client/cli/server_options.h"

#include <utility>

#include "CLI/CLI.hpp"
#include "client/cli/server_directory.h"

namespace sage::cli {

namespace {

void AddTimeout(CLI::App* command, double* seconds) {
  command->add_option("--timeout", *seconds, "Seconds to wait for an answer")
      ->check(CLI::PositiveNumber);
}

}  // namespace

void AddServerOptions(CLI::App* command, ServerOptions* options) {
  command
      ->add_option("--server", options->server,
                   "HOST:PORT, unix:/PATH of a socket, or a name of the configuration file "
                   "[127.0.0.1:50051]")
      ->envname("SAGE_SERVER");
  command
      ->add_option("--connections", options->connections,
                   "Connections that large requests are striped over, 1 to 16")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  AddTimeout(command, &options->timeout_seconds);
}

void AddServersOptions(CLI::App* command, ServersOptions* options) {
  command
      ->add_option(
          "--server", options->servers,
          "HOST:PORT, unix:/PATH of a socket, or a name of the configuration file; several, "
          "comma-separated, take turns [127.0.0.1:50051]")
      ->delimiter(',')
      ->envname("SAGE_SERVER");
  command
      ->add_option("--connections", options->connections,
                   "Connections to each server, which take turns; a request travels on one of them")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  AddTimeout(command, &options->timeout_seconds);
}

absl::StatusOr<std::unique_ptr<Client>> Connect(const ServerOptions& options) {
  absl::StatusOr<KnownServer> server = FindServer(options.server);
  if (!server.ok()) return server.status();
  ClientOptions client;
  client.target = std::move(server->target);
  client.connections = options.connections;
  const double timeout_seconds =
      options.timeout_seconds > 0 ? options.timeout_seconds : server->timeout_seconds;
  if (timeout_seconds > 0) client.default_timeout = absl::Seconds(timeout_seconds);
  return Client::Connect(std::move(client));
}

}  // namespace sage::cli
