#include "kernels/backend.h"

namespace sage {

absl::Status CheckQuantizedKeys(const KvTask& task) {
  if (!task.k_scales.has_value()) return absl::OkStatus();
  if (task.precision == Precision::kFp16) {
    return absl::InvalidArgumentError("int8 k with precision fp16: need fp16 or bf16");
  }
  if (task.k_scales->scales == nullptr || task.k_scales->smoothing == nullptr) {
    return absl::InvalidArgumentError("int8 k: need its scales and its smoothing vector");
  }
  return absl::OkStatus();
}

absl::Status CheckQuantizedQueries(const AttendTask& task) {
  if (!task.q_scales.has_value()) return absl::OkStatus();
  if (task.kv.precision == Precision::kFp16) {
    return absl::InvalidArgumentError("int8 q with precision fp16: need fp16 or bf16");
  }
  if (task.q_scales->scales == nullptr) {
    return absl::InvalidArgumentError("int8 q: need its scales");
  }
  if (task.lse != nullptr && task.q_scales->dot_smoothing == nullptr) {
    return absl::InvalidArgumentError(
        "int8 q with lse: need its products with the smoothing vector");
  }
  return absl::OkStatus();
}

}  // namespace sage
