// The CUDA backend: attention on one NVIDIA GPU of sm_80 or newer.
//
// Kernels read K, V and the mask from device memory in place. Pointers of q, k, v and outputs must
// be 16-byte aligned, strides multiples of 8 elements, and row strides below 32 MiB, which whole
// tensors in memory of Allocate() are; other ones are INVALID_ARGUMENT.
#ifndef SAGE_KERNELS_CUDA_CUDA_BACKEND_H_
#define SAGE_KERNELS_CUDA_CUDA_BACKEND_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace sage {

// Which kernels run.
enum class CudaKernelPath : std::uint8_t {
  kAuto,         // the fastest that the device has: those of sm_90a on sm_90, else mma.sync
  kSm80,         // mma.sync, on every device
  kSm80Compact,  // the same, in the form for 100 KB of shared memory (sm_86, sm_89, sm_120)
};

struct CudaBackendOptions {
  int device = 0;                       // ordinal among the visible devices
  std::int64_t memory_limit_bytes = 0;  // device memory; 0: nine tenths of what is free at start
  CudaKernelPath kernel_path = CudaKernelPath::kAuto;  // forced by tests
};

// Errors, each saying what to do: FAILED_PRECONDITION where driver, device, memory or the kernels
// built in do not do; INVALID_ARGUMENT for a device that does not exist; UNAVAILABLE for one that
// does not answer. Works, with an error, on machines without GPU or driver.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaBackendOptions& options);

}  // namespace sage

#endif  // SAGE_KERNELS_CUDA_CUDA_BACKEND_H_
