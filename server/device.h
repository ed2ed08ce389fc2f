// One device: its backend, the memory that requests may reserve there, its engine, and copies aside
// from that.
#ifndef SAGE_SERVER_DEVICE_H_
#define SAGE_SERVER_DEVICE_H_

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/account.h"
#include "server/engine.h"
#include "server/slab_pool.h"
#include "server/transfer.h"

namespace sage::server {

// Thread-safe. A server has one for each GPU, or one for the CPU.
class Device {
 public:
  static absl::StatusOr<std::unique_ptr<Device>> Create(std::unique_ptr<Backend> backend,
                                                        std::uint64_t memory_bytes,
                                                        const EngineOptions& options);

  Backend& backend() { return *backend_; }
  Account& memory() { return memory_; }
  SlabPool& pool() { return pool_; }
  Engine& engine() { return *engine_; }
  Transfer& transfer() { return *transfer_; }

 private:
  Device(std::unique_ptr<Backend> backend, std::uint64_t memory_bytes)
      : backend_(std::move(backend)),
        memory_(memory_bytes),
        pool_(*backend_, MemoryKind::kDevice, memory_bytes) {}

  const std::unique_ptr<Backend> backend_;
  Account memory_;
  SlabPool pool_;
  std::unique_ptr<Transfer> transfer_;
  std::unique_ptr<Engine> engine_;
};

// For what is computed soon: first the device that will be done with its queue first, by estimate,
// and of equals the one with the least memory reserved.
std::vector<Device*> ByLoad(const std::vector<Device*>& devices);
// For what stays: the one of at least one device that has the least memory reserved.
Device& Emptiest(const std::vector<Device*>& devices);

}  // namespace sage::server

#endif  // SAGE_SERVER_DEVICE_H_
