// Options of every subcommand that talks to a server.
#ifndef SAGE_CLIENT_CLI_SERVER_OPTIONS_H_
#define SAGE_CLIENT_CLI_SERVER_OPTIONS_H_

#include <memory>
#include <string>
#include <vector>

#include "CLI/App.hpp"
#include "absl/status/statusor.h"
#include "client/cli/server_directory.h"
#include "client/client.h"

namespace sage::cli {

struct ServerOptions {
  std::string server;  // as FindServer() takes it
  int connections = ClientOptions{}.connections;
  double timeout_seconds = 0;  // 0: what the configuration file says, or none
  CredentialFiles files = {};  // each in place of the configuration file's
};

// Several servers, and several connections to each.
struct ServersOptions {
  std::vector<std::string> servers = {""};
  int connections = 1;
  double timeout_seconds = 0;
  CredentialFiles files = {};
};

void AddServerOptions(CLI::App* command, ServerOptions* options);
void AddServersOptions(CLI::App* command, ServersOptions* options);

// Sends the token of $SAGE_TOKEN where it is set. INVALID_ARGUMENT as Client::Connect() has it.
absl::StatusOr<std::unique_ptr<Client>> Connect(const ServerOptions& options);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_SERVER_OPTIONS_H_
