// What PrepareKv leaves in device memory.
#ifndef SAGE_KERNELS_CUDA_PREPARED_KV_H_
#define SAGE_KERNELS_CUDA_PREPARED_KV_H_

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace sage::cuda {

// Rows of channels are padded with zeros to what the kernels are built for.
constexpr std::int64_t PaddedHeadDim(std::int64_t head_dim) { return head_dim <= 64 ? 64 : 128; }

// Offsets of the parts, for the INT8 precisions; `fp16` prepares nothing. Blocks are 64 keys, each
// a swizzled tile (swizzled_tile.cuh); keys past the end are zeros.
struct PreparedKvLayout {
  explicit PreparedKvLayout(const KvTask& task);

  std::size_t k8 = 0;         // int8 [heads, blocks, 64, padded head_dim]
  std::size_t scales = 0;     // float [heads, blocks]
  std::size_t smoothing = 0;  // float [heads, padded head_dim]
  // For qk_int8_pv_fp8.
  std::size_t v8 = 0;        // e4m3 [heads, blocks, padded head_dim, 64]
  std::size_t v_scales = 0;  // float [heads, padded head_dim]
  std::size_t v_means = 0;   // likewise
  std::size_t bytes = 0;
};

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_PREPARED_KV_H_
