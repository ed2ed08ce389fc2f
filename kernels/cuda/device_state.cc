#include "kernels/cuda/device_state.h"

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/resources.h"
#include "kernels/cuda/sm80/kernels.h"
#include "kernels/cuda/sm90/kernels.h"

namespace sage::cuda {

absl::Status DeviceState::LoadKernels(CudaKernelPath path) {
  if (absl::Status status = UseDevice(properties_.ordinal); !status.ok()) return status;
  if (path == CudaKernelPath::kAuto && properties_.compute_capability == sm90::kComputeCapability) {
    kernel_path_ = "sm90";
    absl::Status status =
        LoadPrecision(Precision::kQkInt8PvFp16, sm90::LoadQkInt8PvFp16, false, false);
    status.Update(LoadPrecision(Precision::kQkInt8PvFp8, sm90::LoadQkInt8PvFp8, false, false));
    status.Update(LoadPrecision(Precision::kFp16, sm90::LoadFp16, false, false));
    return status;
  }
  const bool compact = path == CudaKernelPath::kSm80Compact;
  kernel_path_ = compact ? "sm80_compact" : "sm80";
  absl::Status status =
      LoadPrecision(Precision::kQkInt8PvFp16, sm80::LoadQkInt8PvFp16, compact, false);
  status.Update(LoadPrecision(Precision::kFp16, sm80::LoadFp16, compact, false));
  // Builds for older devices have no code with e4m3.
  if (properties_.compute_capability >= sm80::kFirstE4m3) {
    status.Update(LoadPrecision(Precision::kQkInt8PvFp8, sm80::LoadQkInt8PvFp8, compact, true));
  }
  return status;
}

absl::Status DeviceState::LoadPrecision(Precision precision, Loader load, bool compact,
                                        bool optional) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (const int padded_dim : {64, 128}) {
      const KernelChoice choice = {.type = ToElementType(dtype),
                                   .padded_dim = padded_dim,
                                   .num_sms = properties_.num_sms,
                                   .compute_capability = properties_.compute_capability,
                                   .compact = compact};
      Kernel kernel;
      const cudaError_t error = load(choice, &kernel);
      if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
        static_cast<void>(cudaGetLastError());  // not to be taken for one of a later launch
        if (optional) return absl::OkStatus();
        return absl::FailedPreconditionError(absl::StrCat(
            "this program has no kernels for sm_", properties_.compute_capability, " (",
            properties_.name, "); build with CMAKE_CUDA_ARCHITECTURES=native, or take a build for ",
            "all devices"));
      }
      if (error != cudaSuccess) return ToStatus(error, "loading kernels");
      kernels_[{precision, dtype, padded_dim}] = kernel;
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceState::CheckKernel(const KernelKey& key) const {
  if (HasKernel(key)) return absl::OkStatus();
  return absl::UnimplementedError("no kernel for the precision and dtype of a task");
}

absl::Status DeviceState::Check(cudaError_t error, std::string_view action) {
  absl::Status status = ToStatus(error, action);
  if (IsSticky(error)) {
    const absl::MutexLock lock(&mutex_);
    health_.Update(status);
  }
  return status;
}

absl::Status DeviceState::Health() const {
  const absl::MutexLock lock(&mutex_);
  return health_;
}

}  // namespace sage::cuda
