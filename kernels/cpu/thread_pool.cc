#include "kernels/cpu/thread_pool.h"

namespace sage {

ThreadPool::ThreadPool(int num_threads) {
  workers_.reserve(num_threads - 1);
  for (int i = 1; i < num_threads; ++i) {
    workers_.emplace_back([this] { WorkerMain(); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  loop_added_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(std::int64_t iterations, Body body) {
  Loop loop{.body = body, .iterations = iterations};
  const bool shared = iterations > 1 && !workers_.empty();
  if (shared) {
    {
      const std::lock_guard lock(mutex_);
      loops_.push_back(&loop);
    }
    loop_added_.notify_all();
  }
  RunIterations(loop, 0);
  if (shared) {
    std::unique_lock lock(mutex_);
    loops_.remove(&loop);  // nobody can join from here on
    worker_left_.wait(lock, [&] { return loop.active_workers == 0; });
  }
}

void ThreadPool::RunIterations(Loop& loop, int participant) {
  while (true) {
    const std::int64_t i = loop.next.fetch_add(1, std::memory_order_relaxed);
    if (i >= loop.iterations) return;
    loop.body(i, participant);
  }
}

void ThreadPool::WorkerMain() {
  std::unique_lock lock(mutex_);
  while (true) {
    loop_added_.wait(lock, [this] { return stopping_ || !loops_.empty(); });
    if (stopping_) return;
    Loop* const loop = loops_.front();
    const int participant = loop->participants++;
    ++loop->active_workers;
    lock.unlock();
    RunIterations(*loop, participant);
    lock.lock();
    loops_.remove(loop);  // its iterations have all been started
    if (--loop->active_workers == 0) worker_left_.notify_all();
  }
}

}  // namespace sage
