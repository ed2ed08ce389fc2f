// Names of tenants.
#ifndef SAGE_SERVER_TENANT_NAME_H_
#define SAGE_SERVER_TENANT_NAME_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sage::server {

// Whoever comes over TCP to a server that asks for no credentials.
inline constexpr char kDefaultTenant[] = "default";

// The tenant of a user who comes over a Unix socket: "uid:N".
std::string TenantOfUser(uid_t user);

// Whether operators and certificates may use the name: 1 to 128 letters, digits and "-_.:/@+", not
// beginning with "uid:". INVALID_ARGUMENT says so.
absl::Status CheckTenantName(absl::string_view name);

}  // namespace sage::server

#endif  // SAGE_SERVER_TENANT_NAME_H_
