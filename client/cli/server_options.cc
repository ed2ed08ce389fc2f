#include "client/cli/server_options.h"

#include <utility>

#include "CLI/CLI.hpp"

namespace sage::cli {

namespace {

void AddTimeout(CLI::App* command, double* seconds) {
  command->add_option("--timeout", *seconds, "Seconds to wait for an answer")
      ->check(CLI::PositiveNumber);
}

}  // namespace

void AddServerOptions(CLI::App* command, ServerOptions* options) {
  command->add_option("--server", options->target, "HOST:PORT, or unix:/PATH of a socket")
      ->envname("SAGE_SERVER")
      ->capture_default_str();
  command
      ->add_option("--connections", options->connections,
                   "Connections that large requests are striped over, 1 to 16")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  AddTimeout(command, &options->timeout_seconds);
}

void AddServersOptions(CLI::App* command, ServersOptions* options) {
  command
      ->add_option("--server", options->targets,
                   "HOST:PORT, or unix:/PATH of a socket; several, comma-separated, take turns")
      ->delimiter(',')
      ->envname("SAGE_SERVER")
      ->capture_default_str();
  command
      ->add_option("--connections", options->connections,
                   "Connections to each server, which take turns; a request travels on one of them")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  AddTimeout(command, &options->timeout_seconds);
}

absl::StatusOr<std::unique_ptr<Client>> Connect(const ServerOptions& options) {
  ClientOptions client;
  client.target = options.target;
  client.connections = options.connections;
  if (options.timeout_seconds > 0) client.default_timeout = absl::Seconds(options.timeout_seconds);
  return Client::Connect(std::move(client));
}

}  // namespace sage::cli
