#include "client/internal/token_source.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace sage::internal {
namespace {

// What may stand in a header without breaking it.
absl::Status CheckToken(const std::string& subject, const std::string& token) {
  const bool visible = std::all_of(token.begin(), token.end(),
                                   [](unsigned char c) { return absl::ascii_isgraph(c); });
  if (!token.empty() && visible) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(subject, ": must be one token, of visible ASCII characters"));
}

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("token_file: ", path, ": ", std::strerror(errno)));
  }
  if ((status.st_mode & S_IROTH) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "token_file: ", path, ": every user of this machine may read it; chmod 600 ", path));
  }
  std::ifstream file(path);
  std::string token((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  absl::StripAsciiWhitespace(&token);
  if (absl::Status check = CheckToken(absl::StrCat("token_file: ", path), token); !check.ok()) {
    return check;
  }
  return token;
}

}  // namespace

absl::StatusOr<std::shared_ptr<TokenSource>> TokenSource::Open(std::string token,
                                                               std::string file) {
  if (!token.empty() && !file.empty()) {
    return absl::InvalidArgumentError("token: given beside token_file; allowed one of them");
  }
  if (file.empty()) {
    if (absl::Status status = CheckToken("token", token); !status.ok()) return status;
  }
  std::shared_ptr<TokenSource> source(new TokenSource(std::move(token), std::move(file)));
  const std::lock_guard lock(source->mutex_);
  if (absl::Status status = source->Refresh(); !status.ok()) return status;
  return source;
}

absl::Status TokenSource::Refresh() {
  if (file_.empty() || !change_.Poll()) return absl::OkStatus();
  absl::StatusOr<std::string> token = ReadToken(file_);
  if (!token.ok()) return token.status();
  token_ = *std::move(token);
  return absl::OkStatus();
}

std::string TokenSource::Get() {
  const std::lock_guard lock(mutex_);
  Refresh().IgnoreError();
  return token_;
}

}  // namespace sage::internal
