#include "server/resident_tensor.h"

#include <algorithm>

namespace sage::server {

const char* Name(TensorRole role) {
  switch (role) {
    case TensorRole::kQ:
      return "q";
    case TensorRole::kK:
      return "k";
    case TensorRole::kV:
      return "v";
    case TensorRole::kOutput:
      return "output";
    case TensorRole::kMask:
      return "mask";
  }
  return "?";
}

bool ResidentTensor::Is(const TensorSpec& spec, const BlockMask& mask) const {
  if (spec_ != spec) return false;
  if (holdings_.mask == nullptr) return true;
  const BlockMask& own = holdings_.mask->mask;
  return own.batch() == mask.batch() && own.heads() == mask.heads() &&
         std::equal(own.bits().begin(), own.bits().end(), mask.bits().begin(), mask.bits().end());
}

std::shared_ptr<KvGroup> ResidentTensor::KeptKv(const std::shared_ptr<const ResidentTensor>& v,
                                                const KvTask& task, std::int64_t batch,
                                                std::int64_t head_begin) {
  const bool listed = std::find(spec_.precisions.begin(), spec_.precisions.end(), task.precision) !=
                      spec_.precisions.end();
  const std::int64_t heads = std::min(kv_heads_per_unit_, spec_.num_heads - head_begin);
  if (!listed || task.length_k != spec_.seqlen || head_begin % kv_heads_per_unit_ != 0 ||
      task.num_heads != heads) {
    return nullptr;
  }
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<const ResidentTensor> kept_v = kept_v_.lock();
  if (kept_v == nullptr) {
    // Whoever used what was prepared with it kept it alive, so nobody does any more.
    kept_.clear();
    kept_v_ = v;
  } else if (kept_v != v) {
    return nullptr;
  }
  std::shared_ptr<KvGroup>& group = kept_[{task.precision, batch, head_begin}];
  if (group == nullptr) {
    group = std::make_shared<KvGroup>();
    group->task = task;
  }
  return group;
}

std::optional<ResidentTensor::Access> ResidentTensor::TryRead(
    std::shared_ptr<ResidentTensor> tensor) {
  {
    const std::lock_guard lock(tensor->mutex_);
    if (!tensor->written_.empty()) return std::nullopt;
    ++tensor->readers_;
  }
  return Access(std::move(tensor), std::nullopt);
}

std::optional<ResidentTensor::Access> ResidentTensor::TryWrite(
    std::shared_ptr<ResidentTensor> tensor, const TensorRegion& region) {
  {
    const std::lock_guard lock(tensor->mutex_);
    const auto overlaps = [&](const TensorRegion& other) { return region.Overlaps(other); };
    if (tensor->readers_ > 0 ||
        std::any_of(tensor->written_.begin(), tensor->written_.end(), overlaps)) {
      return std::nullopt;
    }
    tensor->written_.push_back(region);
  }
  return Access(std::move(tensor), region);
}

ResidentTensor::Access::~Access() {
  if (tensor_ == nullptr) return;  // moved from
  const std::lock_guard lock(tensor_->mutex_);
  if (written_.has_value()) {
    tensor_->written_.erase(
        std::find(tensor_->written_.begin(), tensor_->written_.end(), *written_));
    ++tensor_->generation_;
  } else {
    --tensor_->readers_;
  }
}

std::uint64_t ResidentTensor::generation() const {
  const std::lock_guard lock(mutex_);
  return generation_;
}

Device* ResidentOperands::device() const {
  for (const auto& tensor : {q, k, v, mask, output}) {
    if (tensor != nullptr) return &tensor->device();
  }
  return nullptr;
}

std::uint64_t KeptKvBytes(const TensorSpec& k, const Backend& backend,
                          std::int64_t kv_heads_per_unit) {
  KvTask task;
  task.length_k = k.seqlen;
  task.head_dim = k.head_dim;
  task.dtype = k.dtype;
  std::uint64_t bytes = 0;
  for (const Precision precision : k.precisions) {
    task.precision = precision;
    const auto bytes_of = [&](std::int64_t num_heads) {
      task.num_heads = num_heads;
      return SlabPool::RoundUp(backend.PreparedKvBytes(task));
    };
    bytes += k.num_heads / kv_heads_per_unit * bytes_of(kv_heads_per_unit);
    const std::int64_t rest = k.num_heads % kv_heads_per_unit;
    if (rest != 0) bytes += bytes_of(rest);
  }
  return bytes * k.batch;
}

}  // namespace sage::server
