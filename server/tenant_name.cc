#include "server/tenant_name.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sage::server {
namespace {

constexpr char kUserPrefix[] = "uid:";
constexpr std::size_t kMaxLength = 128;

bool IsAllowed(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
         absl::string_view("-_.:/@+").find(c) != absl::string_view::npos;
}

}  // namespace

std::string TenantOfUser(uid_t user) { return absl::StrCat(kUserPrefix, user); }

absl::Status CheckTenantName(absl::string_view name) {
  if (!name.empty() && name.size() <= kMaxLength && !absl::StartsWith(name, kUserPrefix) &&
      std::all_of(name.begin(), name.end(), IsAllowed)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "a tenant's name has 1 to 128 letters, digits and -_.:/@+, and does not begin with uid:");
}

}  // namespace sage::server
