// HOST:PORT addresses.
#ifndef SAGE_CONFIG_ADDRESS_H_
#define SAGE_CONFIG_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"

namespace sage {

struct HostPort {
  std::string host;
  int port = 0;
};

// Reads HOST:PORT, with an IPv6 host in brackets. INVALID_ARGUMENT naming what came.
absl::StatusOr<HostPort> ParseHostPort(const std::string& address);

// OK where an address is unix:PATH or HOST:PORT; else ParseHostPort()'s error.
absl::Status CheckAddress(const std::string& address);

// Whether only this machine can reach the address: unix:PATH, localhost, 127.0.0.0/8 or [::1].
bool IsLocal(const std::string& address);

}  // namespace sage

#endif  // SAGE_CONFIG_ADDRESS_H_
