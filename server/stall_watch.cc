#include "server/stall_watch.h"

#include <algorithm>

namespace sage::server {

StallWatch::StallWatch(std::chrono::milliseconds stall_timeout)
    : period_(std::max(stall_timeout / 8, std::chrono::milliseconds(5))),
      thread_([this] { Run(); }) {}

StallWatch::~StallWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void StallWatch::Add(Stallable* call) {
  const std::lock_guard lock(mutex_);
  calls_.insert(call);
}

void StallWatch::Remove(Stallable* call) {
  const std::lock_guard lock(mutex_);
  calls_.erase(call);
}

void StallWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, period_, [this] { return stopping_; })) {
    const auto now = std::chrono::steady_clock::now();
    for (Stallable* call : calls_) call->CheckStall(now);
  }
}

}  // namespace sage::server
