#include "kernels/cuda/prepared_kv.h"

#include "kernels/cuda/memory_layout.h"

namespace sage::cuda {

PreparedKvLayout::PreparedKvLayout(const KvTask& task) {
  if (task.precision == Precision::kFp16) return;
  const std::int64_t padded = PaddedHeadDim(task.head_dim);
  const std::int64_t blocks = task.num_heads * CeilDiv(task.length_k, kBlockN);
  MemoryLayout layout;
  k8 = layout.Add<std::int8_t>(blocks * kBlockN * padded);
  scales = layout.Add<float>(blocks);
  smoothing = layout.Add<float>(task.num_heads * padded);
  if (task.precision == Precision::kQkInt8PvFp8) {
    v8 = layout.Add<std::uint8_t>(blocks * kBlockN * padded);
    v_scales = layout.Add<float>(task.num_heads * padded);
    v_means = layout.Add<float>(task.num_heads * padded);
  }
  bytes = layout.bytes();
}

}  // namespace sage::cuda
