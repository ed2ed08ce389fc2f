#include "client/cli/server_directory.h"

#include <cstdlib>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/client.h"
#include "config/toml_reader.h"

namespace sage::cli {
namespace {

struct Config {
  std::string default_server;
  std::map<std::string, KnownServer> servers;
};

bool EveryoneMayRead(const std::string& path) {
  std::error_code error;
  const std::filesystem::perms mode = std::filesystem::status(path, error).permissions();
  return (mode & std::filesystem::perms::others_read) != std::filesystem::perms::none;
}

// gRPC takes any number for a port, less whole multiples of 65536.
bool HasBadPort(const std::string& target) {
  int port = 0;
  const std::string text = target.substr(target.rfind(':') + 1);
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  if (absl::StartsWith(target, "unix:") || !digits) return false;
  return !absl::SimpleAtoi(text, &port) || port < 1 || port > 65535;
}

absl::StatusOr<KnownServer> ServerAt(const std::string& target) {
  if (HasBadPort(target)) {
    return absl::InvalidArgumentError(
        absl::StrCat("no server '", target, "': ports are 1 to 65535"));
  }
  return KnownServer{.target = target};
}

absl::StatusOr<Config> ReadConfig(const std::string& path) {
  Config config;
  if (path.empty()) return config;
  // A file that the user names must be there.
  if (std::getenv("SAGE_CONFIG") == nullptr && !std::filesystem::exists(path)) return config;
  absl::StatusOr<TomlTable> file = TomlTable::Open(path);
  if (!file.ok()) return absl::InvalidArgumentError(file.status().message());
  file->Read("default", &config.default_server);
  for (auto& [name, table] : file->NamedTables("server")) {
    KnownServer& server = config.servers[name];
    table.Read("target", &server.target);
    table.Read("timeout", &server.timeout_seconds);
    table.Read("ca", &server.files.ca);
    table.Read("cert", &server.files.certificate);
    table.Read("key", &server.files.key);
    table.Read("token_file", &server.files.token);
    table.Read("token", &server.token);
    if (!server.token.empty() && EveryoneMayRead(path)) {
      table.Refuse("token",
                   absl::StrCat("every user of this machine may read it; chmod 600 ", path));
    }
    for (std::string* file :
         {&server.files.ca, &server.files.certificate, &server.files.key, &server.files.token}) {
      if (file->empty() || *file == kSystemCa) continue;
      *file = (std::filesystem::path(path).parent_path() / *file).string();
    }
    if (server.target.find(':') == std::string::npos) {
      table.Refuse("target", "must be HOST:PORT or unix:/PATH");
    }
    if (HasBadPort(server.target)) table.Refuse("target", "ports are 1 to 65535");
    if (server.timeout_seconds < 0) table.Refuse("timeout", "must not be negative");
    if (absl::Status status = table.Finish(); !status.ok()) return status;
  }
  if (absl::Status status = file->Finish(); !status.ok()) return status;
  return config;
}

}  // namespace

std::string ConfigPath() {
  if (const char* path = std::getenv("SAGE_CONFIG")) return path;
  if (const char* folder = std::getenv("XDG_CONFIG_HOME"); folder != nullptr && *folder != '\0') {
    return absl::StrCat(folder, "/sagectl/config.toml");
  }
  const char* home = std::getenv("HOME");
  return home == nullptr ? "" : absl::StrCat(home, "/.config/sagectl/config.toml");
}

absl::StatusOr<KnownServer> FindServer(const std::string& text) {
  if (text.find(':') != std::string::npos) return ServerAt(text);
  const std::string path = ConfigPath();
  absl::StatusOr<Config> config = ReadConfig(path);
  if (!config.ok()) return config.status();
  const std::string& name = text.empty() ? config->default_server : text;
  if (name.empty()) return KnownServer{.target = ClientOptions{}.target};
  if (name.find(':') != std::string::npos) return ServerAt(name);
  const auto found = config->servers.find(name);
  if (found != config->servers.end()) return found->second;
  return absl::InvalidArgumentError(absl::StrCat(
      "no server '", name, "': give HOST:PORT, unix:/PATH or a name of ",
      path.empty() ? "a file that $SAGE_CONFIG names" : path, ", which has ",
      config->servers.empty()
          ? "none"
          : absl::StrJoin(config->servers, ", ", [](std::string* out, const auto& entry) {
              absl::StrAppend(out, entry.first);
            })));
}

}  // namespace sage::cli
