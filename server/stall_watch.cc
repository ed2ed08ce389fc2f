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
  std::unique_lock lock(mutex_);
  calls_.erase(call);
  if (calls_.empty()) none_.notify_all();
  if (std::this_thread::get_id() == thread_.get_id()) return;
  asked_.wait(lock, [&] { return asking_ != call; });
}

void StallWatch::AwaitNone(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(mutex_);
  none_.wait_until(lock, deadline, [this] { return calls_.empty(); });
}

void StallWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, period_, [this] { return stopping_; })) {
    const auto now = std::chrono::steady_clock::now();
    // Calls may come and go meanwhile.
    for (auto next = calls_.begin(); next != calls_.end();) {
      Stallable* const call = *next;
      asking_ = call;
      lock.unlock();
      call->CheckStall(now);
      lock.lock();
      asking_ = nullptr;
      asked_.notify_all();
      next = calls_.upper_bound(call);
    }
  }
}

}  // namespace sage::server
