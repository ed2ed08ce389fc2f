// The one place where CUDA errors become statuses.
#ifndef SAGE_KERNELS_CUDA_CUDA_STATUS_H_
#define SAGE_KERNELS_CUDA_CUDA_STATUS_H_

#include <cuda_runtime_api.h>

#include <string_view>

#include "absl/status/status.h"

namespace sage::cuda {

// OK, or a status that says what `action` was under way and what CUDA answered:
//   RESOURCE_EXHAUSTED   memory is short
//   FAILED_PRECONDITION  no driver, no device, or no kernels for this device
//   UNAVAILABLE          the device is lost to this process (see IsSticky)
//   INTERNAL             everything else: a mistake of ours
absl::Status ToStatus(cudaError_t error, std::string_view action);

// Whether every later call of the process on this device fails as well.
bool IsSticky(cudaError_t error);

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_CUDA_STATUS_H_
