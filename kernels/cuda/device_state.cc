#include "kernels/cuda/device_state.h"

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/resources.h"

namespace sage::cuda {

absl::Status DeviceState::LoadKernels(bool compact) {
  if (absl::Status status = UseDevice(properties_.ordinal); !status.ok()) return status;
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (const int padded_dim : {64, 128}) {
      const sm80::KernelChoice choice = {.type = ToElementType(dtype),
                                         .padded_dim = padded_dim,
                                         .num_sms = properties_.num_sms,
                                         .compute_capability = properties_.compute_capability,
                                         .compact = compact};
      cudaError_t error =
          sm80::LoadQkInt8PvFp16(choice, &kernels_[{Precision::kQkInt8PvFp16, dtype, padded_dim}]);
      if (error == cudaSuccess) {
        error = sm80::LoadFp16(choice, &kernels_[{Precision::kFp16, dtype, padded_dim}]);
      }
      if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
        return absl::FailedPreconditionError(absl::StrCat(
            "this program has no kernels for sm_", properties_.compute_capability, " (",
            properties_.name, "); build with CMAKE_CUDA_ARCHITECTURES=native, or take a build for ",
            "all devices"));
      }
      if (error != cudaSuccess) return ToStatus(error, "loading kernels");
      if (absl::Status status = LoadE4m3Kernel(choice, dtype); !status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceState::CheckKernel(const KernelKey& key) const {
  if (HasKernel(key)) return absl::OkStatus();
  return absl::UnimplementedError("no kernel for the precision and dtype of a task");
}

absl::Status DeviceState::LoadE4m3Kernel(const sm80::KernelChoice& choice, DType dtype) {
  if (properties_.compute_capability < sm80::kFirstE4m3) return absl::OkStatus();
  sm80::Kernel kernel;
  const cudaError_t error = sm80::LoadQkInt8PvFp8(choice, &kernel);
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction) {
    static_cast<void>(cudaGetLastError());  // not to be taken for one of a later launch
    return absl::OkStatus();
  }
  if (error != cudaSuccess) return ToStatus(error, "loading kernels");
  kernels_[{Precision::kQkInt8PvFp8, dtype, choice.padded_dim}] = kernel;
  return absl::OkStatus();
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
