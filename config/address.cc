#include "config/address.h"

#include <arpa/inet.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sage {
namespace {

bool IsUnix(const std::string& address) { return absl::StartsWith(address, "unix:"); }

}  // namespace

absl::StatusOr<HostPort> ParseHostPort(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  HostPort result;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(address.substr(colon + 1), &result.port) || result.port < 0 ||
      result.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen: got ", address, ", allowed HOST:PORT with a port of 0 to 65535, or unix:PATH"));
  }
  result.host = address.substr(0, colon);
  if (result.host.front() == '[' && result.host.back() == ']') {
    result.host = result.host.substr(1, result.host.size() - 2);
  }
  return result;
}

absl::Status CheckAddress(const std::string& address) {
  return IsUnix(address) ? absl::OkStatus() : ParseHostPort(address).status();
}

bool IsLocal(const std::string& address) {
  if (IsUnix(address)) return true;
  const absl::StatusOr<HostPort> host_port = ParseHostPort(address);
  if (!host_port.ok()) return false;
  in_addr ipv4{};
  const bool loopback = inet_pton(AF_INET, host_port->host.c_str(), &ipv4) == 1 &&
                        ntohl(ipv4.s_addr) >> 24 == IN_LOOPBACKNET;
  return loopback || host_port->host == "localhost" || host_port->host == "::1";
}

}  // namespace sage
