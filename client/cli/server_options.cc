#include "client/cli/server_options.h"

#include <utility>

#include "CLI/CLI.hpp"

namespace sage::cli {

void AddServerOptions(CLI::App* command, ServerOptions* options) {
  command->add_option("--server", options->target, "HOST:PORT, or unix:/PATH of a socket")
      ->envname("SAGE_SERVER")
      ->capture_default_str();
  command
      ->add_option("--connections", options->connections,
                   "Connections that large requests are striped over, 1 to 16")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  command->add_option("--timeout", options->timeout_seconds, "Seconds to wait for an answer")
      ->check(CLI::PositiveNumber);
}

absl::StatusOr<std::unique_ptr<Client>> Connect(const ServerOptions& options) {
  ClientOptions client;
  client.target = options.target;
  client.connections = options.connections;
  if (options.timeout_seconds > 0) client.default_timeout = absl::Seconds(options.timeout_seconds);
  return Client::Connect(std::move(client));
}

}  // namespace sage::cli
