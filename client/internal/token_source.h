// The token that a client's calls carry.
#ifndef SAGE_CLIENT_INTERNAL_TOKEN_SOURCE_H_
#define SAGE_CLIENT_INTERNAL_TOKEN_SOURCE_H_

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/file_change.h"

namespace sage::internal {

// A token, given as it is or in a file, which is read again when it has changed. Thread-safe.
class TokenSource {
 public:
  // INVALID_ARGUMENT where both are given, or the file cannot be read, may be read by every user of
  // this machine, or holds anything but one token.
  static absl::StatusOr<std::shared_ptr<TokenSource>> Open(std::string token, std::string file);

  // A file that has become bad changes nothing.
  std::string Get();

 private:
  TokenSource(std::string token, std::string file)
      : file_(std::move(file)), token_(std::move(token)), change_(file_) {}
  absl::Status Refresh();  // with mutex_ held

  const std::string file_;  // empty: none
  std::mutex mutex_;
  std::string token_;  // guarded by mutex_
  FileChange change_;  // guarded by mutex_
};

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_TOKEN_SOURCE_H_
