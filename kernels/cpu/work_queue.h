// Operations that run one after another on a thread of their own.
#ifndef SAGE_KERNELS_CPU_WORK_QUEUE_H_
#define SAGE_KERNELS_CPU_WORK_QUEUE_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "absl/status/status.h"

namespace sage {

// The order and error semantics of a Stream. Thread-safe. The first failure sticks: later
// operations, which may depend on what failed, are dropped until a callback has reported it.
class WorkQueue {
 public:
  WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;
  // Waits until everything added has run.
  ~WorkQueue();

  // Adds work that is dropped while a failure is unreported.
  void Add(std::function<absl::Status()> operation);
  // Adds a signal that runs whatever failed before, so that nobody waits for it in vain.
  void AddSignal(std::function<void()> signal);
  // Adds a call with the first failure since the last callback, or OK.
  void AddCallback(std::function<void(absl::Status)> callback);

 private:
  void Push(std::function<void()> entry);
  void ThreadMain();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> entries_;  // guarded by mutex_
  bool stopping_ = false;                      // guarded by mutex_
  absl::Status status_;                        // used by thread_ only
  std::thread thread_;
};

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_WORK_QUEUE_H_
