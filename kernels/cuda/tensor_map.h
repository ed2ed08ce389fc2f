// Tensor maps, by which the copy engine of sm_90 finds its way in a tensor.
#ifndef SAGE_KERNELS_CUDA_TENSOR_MAP_H_
#define SAGE_KERNELS_CUDA_TENSOR_MAP_H_

#include <cuda.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/device_task.h"

namespace sage::cuda {

// The map of a 16-bit tensor [num_heads, rows, head_dim] in device memory, all at least 1. Its
// boxes are tiles of 64 rows by 64 channels with the 128-byte swizzle, and zeros past the tensor's
// end. Errors: INVALID_ARGUMENT for a tensor that the copy engine cannot address, UNAVAILABLE
// without a driver.
absl::StatusOr<CUtensorMap> MakeTensorMap(const DeviceHeads& heads, DType dtype,
                                          std::int64_t num_heads, std::int64_t rows,
                                          std::int64_t head_dim);

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_TENSOR_MAP_H_
