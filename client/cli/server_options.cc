#include "client/cli/server_options.h"

#include <cstdlib>
#include <string>
#include <utility>

#include "CLI/CLI.hpp"
#include "client/cli/option_checks.h"
#include "client/cli/server_directory.h"

namespace sage::cli {

namespace {

void AddTimeout(CLI::App* command, double* seconds) {
  command->add_option("--timeout", *seconds, "Seconds to wait for an answer [no limit]")
      ->check(AboveZero());
}

void AddCredentials(CLI::App* command, CredentialFiles* files) {
  const char* const group = "Credentials";
  command
      ->add_option("--ca", files->ca,
                   "TLS: whose certificates the server may show, a PEM file, or 'system'")
      ->type_name("FILE")
      ->envname("SAGE_CA")
      ->group(group);
  command->add_option("--cert", files->certificate, "The client's own certificate, a PEM file")
      ->type_name("FILE")
      ->envname("SAGE_CERT")
      ->group(group);
  command->add_option("--key", files->key, "Its private key, a PEM file")
      ->type_name("FILE")
      ->envname("SAGE_KEY")
      ->group(group);
  command
      ->add_option(
          "--token-file", files->token,
          "Holds the token that calls carry; other users must not be able to read it. Or set "
          "$SAGE_TOKEN")
      ->type_name("FILE")
      ->envname("SAGE_TOKEN_FILE")
      ->group(group);
}

const std::string& FirstOf(const std::string& a, const std::string& b) { return a.empty() ? b : a; }

// The flags' files, and the configuration file's where there is none; a token given either way
// replaces the configuration file's, whichever way that is given.
void SetCredentials(const CredentialFiles& flags, const KnownServer& server,
                    ClientOptions* client) {
  const std::string ca = FirstOf(flags.ca, server.files.ca);
  TlsOptions tls{.root_certificates = ca == kSystemCa ? "" : ca,
                 .certificate = FirstOf(flags.certificate, server.files.certificate),
                 .key = FirstOf(flags.key, server.files.key)};
  if (!ca.empty() || !tls.certificate.empty() || !tls.key.empty()) client->tls = std::move(tls);
  const char* const token = std::getenv("SAGE_TOKEN");
  client->token = token == nullptr ? "" : token;
  client->token_file = flags.token;
  if (!client->token.empty() || !client->token_file.empty()) return;
  client->token = server.token;
  client->token_file = server.files.token;
}

}  // namespace

void AddServerOptions(CLI::App* command, ServerOptions* options) {
  command
      ->add_option("--server", options->server,
                   "HOST:PORT, unix:/PATH of a socket, dns:///NAME:PORT for all servers behind a "
                   "name, or a name of the configuration file [127.0.0.1:50051]")
      ->type_name("ADDRESS")
      ->envname("SAGE_SERVER");
  command
      ->add_option("--connections", options->connections,
                   "Connections that large requests are striped over")
      ->check(Between("1", "16"))
      ->capture_default_str();
  AddTimeout(command, &options->timeout_seconds);
  AddCredentials(command, &options->files);
}

void AddServersOptions(CLI::App* command, ServersOptions* options) {
  command
      ->add_option(
          "--server", options->servers,
          "HOST:PORT, unix:/PATH of a socket, dns:///NAME:PORT for all servers behind a name, or a "
          "name of the configuration file; several, comma-separated, take turns "
          "[127.0.0.1:50051]")
      ->delimiter(',')
      ->type_name("ADDRESS")
      ->envname("SAGE_SERVER");
  command
      ->add_option("--connections", options->connections,
                   "Connections to each server, which take turns; a request travels on one of them")
      ->check(Between("1", "1024"))
      ->capture_default_str();
  AddTimeout(command, &options->timeout_seconds);
  AddCredentials(command, &options->files);
}

absl::StatusOr<std::unique_ptr<Client>> Connect(const ServerOptions& options) {
  absl::StatusOr<KnownServer> server = FindServer(options.server);
  if (!server.ok()) return server.status();
  ClientOptions client;
  client.target = server->target;
  client.connections = options.connections;
  const double timeout_seconds =
      options.timeout_seconds > 0 ? options.timeout_seconds : server->timeout_seconds;
  if (timeout_seconds > 0) client.default_timeout = absl::Seconds(timeout_seconds);
  SetCredentials(options.files, *server, &client);
  return Client::Connect(std::move(client));
}

}  // namespace sage::cli
