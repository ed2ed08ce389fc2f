// Ends streams whose peer keeps the server waiting.
#ifndef SAGE_SERVER_STALL_WATCH_H_
#define SAGE_SERVER_STALL_WATCH_H_

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

namespace sage::server {

// A call that a peer can keep waiting.
class Stallable {
 public:
  virtual ~Stallable() = default;
  virtual void CheckStall(std::chrono::steady_clock::time_point now) = 0;
};

// Looks after streams that are open: asks each a few times a stall timeout whether its peer keeps
// it waiting. Thread-safe.
class StallWatch {
 public:
  explicit StallWatch(std::chrono::milliseconds stall_timeout);
  ~StallWatch();
  void Add(Stallable* call);
  // `call` is not touched any more once this returns. Waits where it is just being asked, unless by
  // what it does then.
  void Remove(Stallable* call);
  // Waits until no call is there, at most until `deadline`.
  void AwaitNone(std::chrono::steady_clock::time_point deadline);

 private:
  void Run();

  const std::chrono::milliseconds period_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable asked_;
  std::condition_variable none_;
  // Guarded by mutex_, which is not held while a call is asked.
  std::set<Stallable*> calls_;
  const Stallable* asking_ = nullptr;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_STALL_WATCH_H_
