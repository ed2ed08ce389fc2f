// Owners of CUDA resources: the only files that create or destroy them.
//
// All are move-only. Destructors ignore errors: they run when work has ended or the device is lost,
// and neither leaves anything to do. Each remembers its device where calls need it to be current.
#ifndef SAGE_KERNELS_CUDA_RESOURCES_H_
#define SAGE_KERNELS_CUDA_RESOURCES_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sage::cuda {

// Makes `device` the calling thread's current one.
absl::Status UseDevice(int device);

struct StreamDeleter {
  void operator()(cudaStream_t stream) const;
};
// A non-blocking stream: unordered with the default stream.
using StreamHandle = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, StreamDeleter>;
absl::StatusOr<StreamHandle> MakeStream(int device);

struct EventDeleter {
  void operator()(cudaEvent_t event) const;
};
// An event that records time.
using EventHandle = std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, EventDeleter>;
absl::StatusOr<EventHandle> MakeEvent(int device);

// Device memory from a stream-ordered pool that keeps what is freed, so that neither allocation nor
// freeing waits for the device. Thread-safe.
class DevicePool {
 public:
  static absl::StatusOr<std::unique_ptr<DevicePool>> Create(int device);
  DevicePool(const DevicePool&) = delete;
  DevicePool& operator=(const DevicePool&) = delete;
  ~DevicePool();

  // Memory that any stream may use as soon as this returns, 256-byte aligned.
  absl::StatusOr<std::byte*> Allocate(std::size_t bytes);
  // All work that uses the memory has finished.
  void Free(std::byte* data);

 private:
  DevicePool(int device, StreamHandle stream) : device_(device), stream_(std::move(stream)) {}

  const int device_;
  StreamHandle stream_;  // orders frees before the allocations that reuse them
  cudaMemPool_t pool_ = nullptr;
};

// Page-locked host memory.
absl::StatusOr<std::byte*> AllocatePinned(int device, std::size_t bytes);
void FreePinned(std::byte* data);

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_RESOURCES_H_
