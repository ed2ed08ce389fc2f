// Worker threads that share the iterations of parallel loops.
#ifndef SAGE_KERNELS_CPU_THREAD_POOL_H_
#define SAGE_KERNELS_CPU_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace sage {

// A fixed set of workers. Thread-safe: loops may be run from several threads at once, each of which
// takes part in its own loop, so that a loop makes progress even where every worker is busy.
class ThreadPool {
 public:
  // Called with the iteration and with the participant that runs it, in [0, num_threads()); one
  // participant runs one iteration at a time, so it may index scratch memory of the loop.
  using Body = absl::FunctionRef<void(std::int64_t iteration, int participant)>;

  // A loop is run by up to `num_threads` threads, its caller included: num_threads - 1 workers.
  explicit ThreadPool(int num_threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  // No loop may be running.
  ~ThreadPool();

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Runs body(i, participant) for each i in [0, iterations), started in ascending order, and
  // returns when all have finished.
  void ParallelFor(std::int64_t iterations, Body body);

 private:
  struct Loop {
    Body body;
    const std::int64_t iterations;
    std::atomic<std::int64_t> next{0};
    int participants = 1;    // that ever joined; guarded by mutex_
    int active_workers = 0;  // guarded by mutex_
  };

  static void RunIterations(Loop& loop, int participant);
  void WorkerMain();

  std::mutex mutex_;
  std::condition_variable loop_added_;
  std::condition_variable worker_left_;
  std::list<Loop*> loops_;  // with iterations that may not have been started
  bool stopping_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_THREAD_POOL_H_
