#include "kernels/cpu/prepared_kv.h"

namespace sage {

PreparedKvLayout::PreparedKvLayout(const KvTask& task) : num_heads_(task.num_heads) {
  const std::size_t blocks = CeilDiv(task.length_k, kBlockN);
  const std::size_t head_dim = task.head_dim;
  const std::size_t padded = PaddedHeadDim(task.head_dim);
  const auto append = [this](std::size_t bytes) {
    constexpr std::size_t kAlignment = 64;
    const std::size_t offset = head_bytes_;
    head_bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  };
  v_nonfinite_ = append(blocks);
  if (task.precision == Precision::kFp16) {
    k16_ = append(blocks * head_dim * kBlockN * sizeof(std::uint16_t));
    return;
  }
  k8_ = append(blocks * head_dim * kBlockN);
  k_scales_ = append(blocks * sizeof(float));
  smoothing_ = append(padded * sizeof(float));
  if (task.precision == Precision::kQkInt8PvFp8) {
    v8_ = append(blocks * kBlockN * padded);
    v_scales_ = append(padded * sizeof(float));
    v_means_ = append(padded * sizeof(float));
  }
}

}  // namespace sage
