#include "kernels/cuda/device_check.h"

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/resources.h"

namespace sage::cuda {
namespace {

constexpr int kMinComputeCapability = 80;
// Room for a few units of work; with less, every request would be refused.
constexpr std::int64_t kMinMemoryBytes = std::int64_t{256} << 20;

std::string VersionName(int version) {  // 13000 -> "13.0"
  return absl::StrCat(version / 1000, ".", version % 1000 / 10);
}

absl::Status CheckDriver() {
  int driver = 0;
  if (absl::Status status = ToStatus(cudaDriverGetVersion(&driver), "asking for the driver");
      !status.ok()) {
    return status;
  }
  if (driver == 0) {
    return absl::FailedPreconditionError(
        "no NVIDIA driver found; install driver r580 or newer (in a container, run it with GPU "
        "access), or use the CPU backend");
  }
  // Within a major version drivers run newer minor toolkits.
  if (driver / 1000 < CUDART_VERSION / 1000) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the NVIDIA driver supports CUDA ", VersionName(driver), ", this program needs ",
        VersionName(CUDART_VERSION / 1000 * 1000), "; install driver r580 or newer"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DeviceProperties> CheckDevice(int ordinal, std::int64_t memory_limit_bytes) {
  if (absl::Status status = CheckDriver(); !status.ok()) return status;
  int count = 0;
  const cudaError_t counted = cudaGetDeviceCount(&count);
  if (counted == cudaErrorNoDevice || (counted == cudaSuccess && count == 0)) {
    return absl::FailedPreconditionError(
        "the driver sees no NVIDIA GPU; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use the CPU "
        "backend");
  }
  if (counted != cudaSuccess) return ToStatus(counted, "counting devices");
  if (ordinal < 0 || ordinal >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("CUDA device ", ordinal, " does not exist; allowed: 0 to ", count - 1));
  }

  cudaDeviceProp props = {};
  if (absl::Status status =
          ToStatus(cudaGetDeviceProperties(&props, ordinal), "reading device properties");
      !status.ok()) {
    return status;
  }
  DeviceProperties device = {.ordinal = ordinal,
                             .name = props.name,
                             .compute_capability = props.major * 10 + props.minor,
                             .num_sms = props.multiProcessorCount};
  if (device.compute_capability < kMinComputeCapability) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", ordinal, " (", device.name, ") is sm_", device.compute_capability,
                     "; kernels need sm_", kMinComputeCapability,
                     " (Ampere) or newer: choose another device or use the CPU backend"));
  }

  if (absl::Status status = UseDevice(ordinal); !status.ok()) return status;
  std::size_t free_bytes = 0;
  std::size_t total_bytes = 0;
  if (absl::Status status =
          ToStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory");
      !status.ok()) {
    return status;
  }
  const auto usable = static_cast<std::int64_t>(free_bytes / 10 * 9);
  device.memory_limit_bytes = memory_limit_bytes == 0 ? usable : memory_limit_bytes;
  if (device.memory_limit_bytes < kMinMemoryBytes ||
      device.memory_limit_bytes > static_cast<std::int64_t>(free_bytes)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "device ", ordinal, " (", device.name, ") has ", free_bytes >> 20, " of ",
        total_bytes >> 20, " MiB free and the limit is ", device.memory_limit_bytes >> 20,
        " MiB; it must be at least ", kMinMemoryBytes >> 20,
        " MiB and free: end other programs on the device, or set another limit"));
  }
  return device;
}

}  // namespace sage::cuda
