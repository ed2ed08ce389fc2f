#include "server/device.h"

#include <algorithm>
#include <tuple>

namespace sage::server {

absl::StatusOr<std::unique_ptr<Device>> Device::Create(std::unique_ptr<Backend> backend,
                                                       std::uint64_t memory_bytes,
                                                       const EngineOptions& options) {
  std::unique_ptr<Device> device(new Device(std::move(backend), memory_bytes));
  absl::StatusOr<std::unique_ptr<Transfer>> transfer = Transfer::Create(*device->backend_);
  if (!transfer.ok()) return transfer.status();
  device->transfer_ = *std::move(transfer);
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      Engine::Create(*device->backend_, device->pool_, options);
  if (!engine.ok()) return engine.status();
  device->engine_ = *std::move(engine);
  return device;
}

std::vector<Device*> ByLoad(const std::vector<Device*>& devices) {
  // Asked once each: queues move meanwhile.
  std::vector<std::tuple<double, std::uint64_t, Device*>> loads;
  loads.reserve(devices.size());
  for (Device* device : devices) {
    loads.emplace_back(device->engine().queued_seconds(), device->memory().reserved(), device);
  }
  std::sort(loads.begin(), loads.end());
  std::vector<Device*> sorted;
  sorted.reserve(loads.size());
  for (const auto& load : loads) sorted.push_back(std::get<Device*>(load));
  return sorted;
}

Device& Emptiest(const std::vector<Device*>& devices) {
  return **std::min_element(devices.begin(), devices.end(), [](Device* a, Device* b) {
    return a->memory().reserved() < b->memory().reserved();
  });
}

}  // namespace sage::server
