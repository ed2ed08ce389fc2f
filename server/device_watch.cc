#include "server/device_watch.h"

#include <utility>

namespace sage::server {

DeviceWatch::DeviceWatch(std::vector<Device*> devices, std::function<void(absl::Status)> lost)
    : devices_(std::move(devices)), lost_(std::move(lost)), thread_([this] { Run(); }) {}

DeviceWatch::~DeviceWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void DeviceWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kPeriod, [this] { return stopping_; })) {
    for (Device* device : devices_) {
      absl::Status health = device->backend().Health();
      if (health.ok()) continue;
      lock.unlock();
      lost_(std::move(health));
      return;
    }
  }
}

}  // namespace sage::server
