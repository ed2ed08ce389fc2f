// Quantisation of K by spec `sage1` on the device.
#ifndef SAGE_KERNELS_CUDA_PREPARE_KV_H_
#define SAGE_KERNELS_CUDA_PREPARE_KV_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/device_task.h"

namespace sage::cuda {

struct PrepareKeysArgs {
  DeviceHeads k;  // [num_heads, length_k, head_dim], kFloat16 or kBFloat16, or int8 as below
  ElementType type = ElementType::kFloat16;
  std::int64_t num_heads = 0;
  std::int32_t length_k = 0;
  std::int32_t head_dim = 0;
  std::int32_t padded_dim = 0;  // 64 or 128

  // Where k holds `sage1` bytes; else nullptr.
  const float* given_scales = nullptr;        // [num_heads, blocks]
  std::int64_t given_scales_head_stride = 0;  // in floats
  const float* given_smoothing = nullptr;     // [num_heads, head_dim]
  // Then also: blocks to be copied, bit n % 8 of byte n / 8; nullptr for all.
  const std::uint8_t* used_blocks = nullptr;

  // [num_heads, blocks, 64, padded_dim], zeros past head_dim and length_k; each block a swizzled
  // tile (swizzled_tile.cuh).
  std::uint8_t* k8 = nullptr;
  float* scales = nullptr;     // [num_heads, blocks]
  float* smoothing = nullptr;  // [num_heads, padded_dim], zeros past head_dim
};

// Queues the quantisation on `stream`, or the copy of what is quantised already. Bits are those of
// ComputeSmoothing() and QuantizeKeys() of kernels/quantize.h.
cudaError_t LaunchPrepareKeys(const PrepareKeysArgs& args, cudaStream_t stream);

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_PREPARE_KV_H_
