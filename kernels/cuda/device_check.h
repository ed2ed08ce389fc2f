// Whether this machine has a GPU that the backend can use.
#ifndef SAGE_KERNELS_CUDA_DEVICE_CHECK_H_
#define SAGE_KERNELS_CUDA_DEVICE_CHECK_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace sage::cuda {

struct DeviceProperties {
  int ordinal = 0;
  std::string name;
  int compute_capability = 0;  // 10 * major + minor
  int num_sms = 0;
  std::int64_t memory_limit_bytes = 0;  // what the backend may allocate
};

// Checks driver, device `ordinal` and memory. `memory_limit_bytes` 0 means nine tenths of what is
// free now. Every error says what to do:
//   FAILED_PRECONDITION  no or too old a driver, no device, one below sm_80, or too little memory
//   INVALID_ARGUMENT     no device with that ordinal
//   UNAVAILABLE          the device does not answer
absl::StatusOr<DeviceProperties> CheckDevice(int ordinal, std::int64_t memory_limit_bytes);

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_DEVICE_CHECK_H_
