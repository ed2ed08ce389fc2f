// Asks a running server for its health, for containers that have no other tool to do so.
#ifndef SAGE_SERVER_HEALTH_PROBE_H_
#define SAGE_SERVER_HEALTH_PROBE_H_

#include <string>

#include "absl/status/status.h"

namespace sage::server {

// OK where the server at `target`, unix:PATH or a HOST:PORT without TLS, answers SERVING within a
// few seconds; else UNAVAILABLE, or the status of the failed call.
absl::Status ProbeHealth(const std::string& target);

}  // namespace sage::server

#endif  // SAGE_SERVER_HEALTH_PROBE_H_
