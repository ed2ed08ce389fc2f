#include "kernels/cpu/work_queue.h"

#include <utility>

namespace sage {

WorkQueue::WorkQueue() : thread_([this] { ThreadMain(); }) {}

WorkQueue::~WorkQueue() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void WorkQueue::Add(std::function<absl::Status()> operation) {
  Push([this, operation = std::move(operation)] {
    if (status_.ok()) status_ = operation();
  });
}

void WorkQueue::AddSignal(std::function<void()> signal) { Push(std::move(signal)); }

void WorkQueue::AddCallback(std::function<void(absl::Status)> callback) {
  Push([this, callback = std::move(callback)] {
    callback(std::exchange(status_, absl::OkStatus()));
  });
}

void WorkQueue::Push(std::function<void()> entry) {
  {
    const std::lock_guard lock(mutex_);
    entries_.push_back(std::move(entry));
  }
  changed_.notify_one();
}

void WorkQueue::ThreadMain() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !entries_.empty(); });
    if (entries_.empty()) return;
    std::function<void()> entry = std::move(entries_.front());
    entries_.pop_front();
    lock.unlock();
    entry();
    entry = nullptr;  // what it holds is released before the next operation starts
    lock.lock();
  }
}

}  // namespace sage
