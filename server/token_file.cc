#include "server/token_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "config/toml_reader.h"
#include "openssl/crypto.h"
#include "openssl/sha.h"
#include "proto/wire/random_id.h"
#include "server/file_descriptor.h"
#include "server/tenant_name.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

constexpr char kScheme[] = "sage";
constexpr std::size_t kIdDigits = 16;
constexpr std::size_t kSecretDigits = 64;

std::string Sha256(absl::string_view text) {
  std::string digest(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

bool IsHex(absl::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == absl::string_view::npos;
}

}  // namespace

absl::StatusOr<std::string> AddToken(const std::string& path, const std::string& tenant) {
  if (absl::Status status = CheckTenantName(tenant); !status.ok()) return status;
  const std::string id = RandomId().substr(0, kIdDigits);
  std::string token = absl::StrCat(kScheme, "_", id, "_", RandomId(), RandomId());
  const std::string entry =
      absl::StrCat("\n[token.", id, "]\ntenant = \"", tenant, "\"\nsha256 = \"",
                   absl::BytesToHexString(Sha256(token)), "\"\n");
  // One write, so that a server that reads meanwhile finds the entry whole or not at all.
  const FileDescriptor file(open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600));
  if (file.get() < 0 ||
      write(file.get(), entry.data(), entry.size()) != static_cast<ssize_t>(entry.size())) {
    return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
  }
  return token;
}

absl::StatusOr<TokenFile::Entries> TokenFile::Read(const std::string& path) {
  absl::StatusOr<TomlTable> file = TomlTable::Open(path);
  if (!file.ok()) return file.status();
  Entries entries;
  for (auto& [id, table] : file->NamedTables("token")) {
    Entry entry;
    std::string digits;
    table.Read("tenant", &entry.tenant);
    table.Read("sha256", &digits);
    if (absl::Status name = CheckTenantName(entry.tenant); !name.ok()) {
      table.Refuse("tenant", std::string(name.message()));
    }
    if (digits.size() != 2 * SHA256_DIGEST_LENGTH || !IsHex(digits)) {
      table.Refuse("sha256", "must have 64 hexadecimal digits, in lower case");
    }
    if (absl::Status status = table.Finish(); !status.ok()) return status;
    entry.sha256 = absl::HexStringToBytes(digits);
    entries[id] = std::move(entry);
  }
  if (absl::Status status = file->Finish(); !status.ok()) return status;
  return entries;
}

absl::StatusOr<std::unique_ptr<TokenFile>> TokenFile::Open(std::string path) {
  std::unique_ptr<TokenFile> file(new TokenFile(std::move(path)));
  const std::lock_guard lock(file->mutex_);
  if (absl::Status status = file->Refresh(); !status.ok()) return status;
  return file;
}

absl::Status TokenFile::Refresh() {
  if (!change_.Poll()) return absl::OkStatus();
  absl::StatusOr<Entries> entries = Read(path_);
  if (!entries.ok()) return entries.status();
  entries_ = *std::move(entries);
  return absl::OkStatus();
}

std::optional<std::string> TokenFile::TenantOf(absl::string_view token) {
  const std::vector<absl::string_view> parts = absl::StrSplit(token, '_');
  const bool formed = parts.size() == 3 && parts[0] == kScheme && parts[1].size() == kIdDigits &&
                      parts[2].size() == kSecretDigits;
  const std::lock_guard lock(mutex_);
  if (absl::Status status = Refresh(); !status.ok()) {
    spdlog::error("event=tokens_not_reloaded reason=\"{}\"", std::string(status.message()));
  }
  if (!formed) return std::nullopt;
  const auto found = entries_.find(parts[1]);
  if (found == entries_.end()) return std::nullopt;
  const std::string digest = Sha256(token);
  if (CRYPTO_memcmp(digest.data(), found->second.sha256.data(), digest.size()) != 0) {
    return std::nullopt;
  }
  return found->second.tenant;
}

}  // namespace sage::server
