// Chooses and creates the backends that the options ask for.
#ifndef SAGE_SERVER_BACKEND_FACTORY_H_
#define SAGE_SERVER_BACKEND_FACTORY_H_

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/options.h"

namespace sage::server {

// One backend for each visible GPU, or one for the CPU. `auto` takes CUDA where every GPU works and
// says in the log why where it does not. `cuda` without a working GPU is an error that says what to
// do, never the CPU instead.
absl::StatusOr<std::vector<std::unique_ptr<Backend>>> CreateBackends(const ServerOptions& options);

}  // namespace sage::server

#endif  // SAGE_SERVER_BACKEND_FACTORY_H_
