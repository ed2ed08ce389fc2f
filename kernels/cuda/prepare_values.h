// Quantisation of V to e4m3 on the device.
#ifndef SAGE_KERNELS_CUDA_PREPARE_VALUES_H_
#define SAGE_KERNELS_CUDA_PREPARE_VALUES_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/device_task.h"

namespace sage::cuda {

struct PrepareValuesArgs {
  DeviceHeads v;  // [num_heads, length_k, head_dim], kFloat16 or kBFloat16
  ElementType type = ElementType::kFloat16;
  std::int64_t num_heads = 0;
  std::int32_t length_k = 0;
  std::int32_t head_dim = 0;
  std::int32_t padded_dim = 0;  // 64 or 128
  float range = 0.0F;           // the largest magnitude of a channel becomes this, at most 448

  // e4m3 [num_heads, blocks, padded_dim, 64], keys in the order of e4m3_order.cuh; zeros past
  // head_dim and length_k, NaN for what is not finite. Each block is a swizzled tile
  // (swizzled_tile.cuh).
  std::uint8_t* v8 = nullptr;
  float* scales = nullptr;  // [num_heads, padded_dim], zeros past head_dim
  float* means = nullptr;   // likewise
};

// Queues the quantisation on `stream`: v is close to scale * e4m3 + mean, a scale and a mean a
// channel (SageAttention2, Zhang et al., 2024). Both are over the finite elements of the head, in
// an order that depends on nothing but length_k. Needs sm_89.
cudaError_t LaunchPrepareValues(const PrepareValuesArgs& args, cudaStream_t stream);

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_PREPARE_VALUES_H_
