#include "server/backend_factory.h"

#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"
#include "spdlog/spdlog.h"
#ifdef SAGE_WITH_CUDA
#include "kernels/cuda/cuda_backend.h"
#endif

namespace sage::server {
namespace {

absl::StatusOr<std::vector<std::unique_ptr<Backend>>> CreateCuda(const ServerOptions& options) {
#ifdef SAGE_WITH_CUDA
  std::vector<std::unique_ptr<Backend>> backends;
  for (int ordinal = 0;; ++ordinal) {
    absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCudaBackend(
        {.device = ordinal,
         .memory_limit_bytes = static_cast<std::int64_t>(options.device_memory_bytes)});
    // Past the last device the ordinal is invalid.
    if (ordinal > 0 && absl::IsInvalidArgument(backend.status())) return backends;
    if (!backend.ok()) return backend.status();
    backends.push_back(*std::move(backend));
  }
#else
  static_cast<void>(options);
  return absl::FailedPreconditionError(
      "this server was built without CUDA; build it where nvcc is installed");
#endif
}

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<Backend>>> CreateBackends(const ServerOptions& options) {
  if (options.backend != "cpu") {
    absl::StatusOr<std::vector<std::unique_ptr<Backend>>> cuda = CreateCuda(options);
    if (cuda.ok()) return cuda;
    if (options.backend == "cuda") {
      return absl::Status(cuda.status().code(),
                          absl::StrCat("backend: ", cuda.status().message(),
                                       "; --backend cpu serves without a GPU"));
    }
    spdlog::info("event=backend_fallback backend=cpu reason=\"{}\"",
                 std::string(cuda.status().message()));
  }
  absl::StatusOr<std::unique_ptr<Backend>> cpu = CreateCpuBackend({.num_threads = options.threads});
  if (!cpu.ok()) return cpu.status();
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(*std::move(cpu));
  return backends;
}

}  // namespace sage::server
