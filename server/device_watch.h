// Asks devices how they are, and tells when one is lost.
#ifndef SAGE_SERVER_DEVICE_WATCH_H_
#define SAGE_SERVER_DEVICE_WATCH_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "server/device.h"

namespace sage::server {

// From construction to destruction.
class DeviceWatch {
 public:
  // How often devices are asked, which costs them nothing: a request that meets a sticky error has
  // failed by itself before.
  static constexpr std::chrono::milliseconds kPeriod{100};

  // Calls `lost` once, on a thread of its own, with the error of the first device that is lost for
  // the rest of the process. `devices` outlive the watch.
  DeviceWatch(std::vector<Device*> devices, std::function<void(absl::Status)> lost);
  ~DeviceWatch();

 private:
  void Run();

  const std::vector<Device*> devices_;
  const std::function<void(absl::Status)> lost_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_DEVICE_WATCH_H_
