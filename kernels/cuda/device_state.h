// What the backend and its streams share about one device: its kernels and its health.
#ifndef SAGE_KERNELS_CUDA_DEVICE_STATE_H_
#define SAGE_KERNELS_CUDA_DEVICE_STATE_H_

#include <cuda_runtime_api.h>

#include <map>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_check.h"
#include "kernels/cuda/kernel.h"

namespace sage::cuda {

// Thread-safe.
class DeviceState {
 public:
  explicit DeviceState(DeviceProperties properties) : properties_(std::move(properties)) {}

  // Readies the kernels of a path. FAILED_PRECONDITION where the build has none for this device.
  absl::Status LoadKernels(CudaKernelPath path);

  const DeviceProperties& properties() const { return properties_; }
  // "sm90", "sm80" or "sm80_compact", once kernels are loaded.
  const std::string& kernel_path() const { return kernel_path_; }
  const Kernel& kernel(const KernelKey& key) const { return kernels_.at(key); }
  bool HasKernel(const KernelKey& key) const { return kernels_.contains(key); }
  // UNIMPLEMENTED where there is no kernel for a task of this key.
  absl::Status CheckKernel(const KernelKey& key) const;

  // ToStatus(), which also remembers the first sticky error.
  absl::Status Check(cudaError_t error, std::string_view action);
  absl::Status Health() const;

 private:
  using Loader = cudaError_t (*)(const KernelChoice& choice, Kernel* kernel);

  // Loads the kernels of a precision. Where the build's code does not run on this device, fails, or
  // with `optional` leaves them out.
  absl::Status LoadPrecision(Precision precision, Loader load, bool compact, bool optional);

  const DeviceProperties properties_;
  std::string kernel_path_;              // immutable once loaded
  std::map<KernelKey, Kernel> kernels_;  // likewise
  mutable absl::Mutex mutex_;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_DEVICE_STATE_H_
