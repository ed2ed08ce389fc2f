// Bearer tokens of tenants, of which the server keeps no more than hashes.
//
// A token is "sage_ID_SECRET": ID, 64 random bits, names its entry in the file and makes every hash
// one of its own; SECRET is 256 random bits, too many to guess, so that one round of SHA-256 over
// the whole token keeps it. The file is TOML:
//
//   [token.0123456789abcdef]
//   tenant = "team-a"
//   sha256 = "64 hexadecimal digits"
#ifndef SAGE_SERVER_TOKEN_FILE_H_
#define SAGE_SERVER_TOKEN_FILE_H_

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "config/file_change.h"

namespace sage::server {

// A new token, whose entry is appended to the file; makes the file where there is none.
// INVALID_ARGUMENT for a bad name of a tenant, UNAVAILABLE where the file cannot be written.
absl::StatusOr<std::string> AddToken(const std::string& path, const std::string& tenant);

// The tokens of a file, which is read again when it has changed. Thread-safe.
class TokenFile {
 public:
  // INVALID_ARGUMENT or NOT_FOUND, with file and line.
  static absl::StatusOr<std::unique_ptr<TokenFile>> Open(std::string path);

  // Whose token it is; nothing where it is in no entry. A file that has become unreadable changes
  // nothing, and is logged once.
  std::optional<std::string> TenantOf(absl::string_view token);

 private:
  struct Entry {
    std::string tenant;
    std::string sha256;  // 32 bytes
  };
  using Entries = std::map<std::string, Entry, std::less<>>;  // by ID

  explicit TokenFile(std::string path) : path_(std::move(path)), change_(path_) {}
  static absl::StatusOr<Entries> Read(const std::string& path);
  absl::Status Refresh();  // with mutex_ held

  const std::string path_;
  std::mutex mutex_;
  // Guarded by mutex_.
  Entries entries_;
  FileChange change_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TOKEN_FILE_H_
