#include "client/internal/restore_wait.h"

#include <utility>

namespace sage::internal {

std::shared_ptr<RestoreWait> RestoreWait::Start(std::size_t tensors, absl::Time deadline,
                                                Done done) {
  auto wait = std::make_shared<RestoreWait>(tensors, std::move(done));
  wait->self_ = wait;
  wait->alarm_.Set(absl::ToChronoTime(deadline),
                   [wait = wait.get()](bool /*expired*/) { wait->End(); });
  return wait;
}

void RestoreWait::Tell(absl::Status status) {
  {
    const std::lock_guard lock(mutex_);
    if (result_.has_value() || (status.ok() && --left_ > 0)) return;
    result_ = std::move(status);
  }
  alarm_.Cancel();
}

void RestoreWait::End() {
  const std::shared_ptr<RestoreWait> self = std::move(self_);
  absl::Status result;
  {
    const std::lock_guard lock(mutex_);
    if (!result_.has_value()) {
      result_ = absl::DeadlineExceededError("the time ended while tensors were put again");
    }
    result = *result_;
  }
  std::exchange(done_, nullptr)(std::move(result));
}

}  // namespace sage::internal
