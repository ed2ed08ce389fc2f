// The user's own names for servers.
#ifndef SAGE_CLIENT_CLI_SERVER_DIRECTORY_H_
#define SAGE_CLIENT_CLI_SERVER_DIRECTORY_H_

#include <string>

#include "absl/status/statusor.h"

namespace sage::cli {

inline constexpr char kSystemCa[] = "system";

// Files of credentials, PEM but for the token; empty: none.
struct CredentialFiles {
  std::string ca;  // whose certificates a server may show; kSystemCa: those the system trusts
  std::string certificate;
  std::string key;
  std::string token;
};

struct KnownServer {
  std::string target;          // HOST:PORT or unix:/PATH
  double timeout_seconds = 0;  // 0: none
  CredentialFiles files = {};
  std::string token = {};  // itself
};

// Where the configuration file is: $SAGE_CONFIG, else $XDG_CONFIG_HOME/sagectl/config.toml, else
// ~/.config/sagectl/config.toml. Empty where none of these variables is set.
std::string ConfigPath();

// What `text` stands for: an address, which has a colon, itself; else a name in the configuration
// file; empty: the file's default, and 127.0.0.1:50051 without one. The file is TOML:
//
//   default = "lab"
//   [server.lab]
//   target = "10.0.0.5:50051"
//   timeout = 30   # seconds to wait for an answer, unless --timeout says otherwise
//   ca = "ca.pem"  # TLS; cert and key, too, where the server asks for a certificate
//   token_file = "lab.token"  # or token = "...", in a file that other users cannot read
//
// Paths are relative to the file. INVALID_ARGUMENT for a name that is not there, saying which are,
// and for a bad file.
absl::StatusOr<KnownServer> FindServer(const std::string& text);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_SERVER_DIRECTORY_H_
