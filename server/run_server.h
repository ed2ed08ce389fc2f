// The life of one server in a process of its own: start, signals, end.
#ifndef SAGE_SERVER_RUN_SERVER_H_
#define SAGE_SERVER_RUN_SERVER_H_

#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/options.h"

namespace sage::server {

// Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once, with 128
// and its number. The process's exit status: 0, or 1 where the server does not start or had to
// cancel requests. Where a device is lost it does not return but ends the process with 1, since
// such a device can neither free its memory nor end its streams. To be called by the main thread,
// before there is another.
int RunServer(
    const ServerOptions& options,
    const std::function<absl::StatusOr<std::vector<std::unique_ptr<Backend>>>()>& create_backends);

}  // namespace sage::server

#endif  // SAGE_SERVER_RUN_SERVER_H_
