#include "server/device.h"

namespace sage::server {

absl::StatusOr<std::unique_ptr<Device>> Device::Create(std::unique_ptr<Backend> backend,
                                                       std::uint64_t memory_bytes,
                                                       const EngineOptions& options) {
  std::unique_ptr<Device> device(new Device(std::move(backend), memory_bytes));
  absl::StatusOr<std::unique_ptr<Engine>> engine =
      Engine::Create(*device->backend_, device->pool_, options);
  if (!engine.ok()) return engine.status();
  device->engine_ = *std::move(engine);
  return device;
}

}  // namespace sage::server
