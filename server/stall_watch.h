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
  void Remove(Stallable* call);  // `call` is not touched any more once this returns

 private:
  void Run();

  const std::chrono::milliseconds period_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::set<Stallable*> calls_;  // guarded by mutex_
  bool stopping_ = false;       // guarded by mutex_
  std::thread thread_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_STALL_WATCH_H_
