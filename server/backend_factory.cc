#include "server/backend_factory.h"

#include <cstdint>

#include "kernels/cpu/cpu_backend.h"
#include "spdlog/spdlog.h"
#ifdef SAGE_WITH_CUDA
#include "kernels/cuda/cuda_backend.h"
#endif

namespace sage::server {
namespace {

absl::StatusOr<std::unique_ptr<Backend>> CreateCuda(const ServerOptions& options) {
#ifdef SAGE_WITH_CUDA
  return CreateCudaBackend(
      {.memory_limit_bytes = static_cast<std::int64_t>(options.device_memory_bytes)});
#else
  static_cast<void>(options);
  return absl::FailedPreconditionError(
      "backend: this server was built without CUDA; build it where nvcc is installed, or use "
      "--backend cpu");
#endif
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const ServerOptions& options) {
  if (options.backend != "cpu") {
    absl::StatusOr<std::unique_ptr<Backend>> cuda = CreateCuda(options);
    if (cuda.ok() || options.backend == "cuda") return cuda;
    spdlog::info("event=backend_fallback backend=cpu reason=\"{}\"",
                 std::string(cuda.status().message()));
  }
  return CreateCpuBackend({.num_threads = options.threads});
}

}  // namespace sage::server
