// Asks a running server for its health, for containers that have no other tool to do so.
#ifndef SAGE_SERVER_HEALTH_PROBE_H_
#define SAGE_SERVER_HEALTH_PROBE_H_

#include <string>

#include "absl/status/status.h"
#include "server/options.h"

namespace sage::server {

// OK where the server at `target`, unix:PATH or HOST:PORT, answers SERVING within a few seconds;
// else UNAVAILABLE, or the status of the failed call. Over TCP it speaks TLS where `options`, which
// are the server's own, do, and shows the server's certificate where clients are asked for one. It
// does not check who answers: nothing is given away, and a certificate need not name loopback.
absl::Status ProbeHealth(const std::string& target, const ServerOptions& options);

}  // namespace sage::server

#endif  // SAGE_SERVER_HEALTH_PROBE_H_
