// What the backend and its streams share about one device: its kernels and its health.
#ifndef SAGE_KERNELS_CUDA_DEVICE_STATE_H_
#define SAGE_KERNELS_CUDA_DEVICE_STATE_H_

#include <cuda_runtime_api.h>

#include <map>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/device_check.h"
#include "kernels/cuda/sm80/launch.h"

namespace sage::cuda {

// Thread-safe.
class DeviceState {
 public:
  explicit DeviceState(DeviceProperties properties) : properties_(std::move(properties)) {}

  // Readies every kernel, in the form for small shared memory if `compact`. FAILED_PRECONDITION
  // where the build has none for this device.
  absl::Status LoadKernels(bool compact);

  const DeviceProperties& properties() const { return properties_; }
  const sm80::Kernel& kernel(const KernelKey& key) const { return kernels_.at(key); }
  bool HasKernel(const KernelKey& key) const { return kernels_.contains(key); }
  // UNIMPLEMENTED where there is no kernel for a task of this key.
  absl::Status CheckKernel(const KernelKey& key) const;

  // ToStatus(), which also remembers the first sticky error.
  absl::Status Check(cudaError_t error, std::string_view action);
  absl::Status Health() const;

 private:
  // Leaves the kernel out where the device, or the build's code for it, has no e4m3.
  absl::Status LoadE4m3Kernel(const sm80::KernelChoice& choice, DType dtype);

  const DeviceProperties properties_;
  std::map<KernelKey, sm80::Kernel> kernels_;  // immutable once loaded
  mutable absl::Mutex mutex_;
  absl::Status health_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_DEVICE_STATE_H_
