#include "kernels/cuda/resources.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_status.h"

namespace sage::cuda {

absl::Status UseDevice(int device) {
  return ToStatus(cudaSetDevice(device), absl::StrCat("selecting device ", device));
}

void StreamDeleter::operator()(cudaStream_t stream) const {
  static_cast<void>(cudaStreamSynchronize(stream));
  static_cast<void>(cudaStreamDestroy(stream));
}

absl::StatusOr<StreamHandle> MakeStream(int device) {
  if (absl::Status status = UseDevice(device); !status.ok()) return status;
  cudaStream_t stream = nullptr;
  const cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) return ToStatus(error, "creating a stream");
  return StreamHandle(stream);
}

void EventDeleter::operator()(cudaEvent_t event) const {
  static_cast<void>(cudaEventDestroy(event));
}

absl::StatusOr<EventHandle> MakeEvent(int device) {
  if (absl::Status status = UseDevice(device); !status.ok()) return status;
  cudaEvent_t event = nullptr;
  const cudaError_t error = cudaEventCreate(&event);
  if (error != cudaSuccess) return ToStatus(error, "creating an event");
  return EventHandle(event);
}

absl::StatusOr<std::unique_ptr<DevicePool>> DevicePool::Create(int device) {
  absl::StatusOr<StreamHandle> stream = MakeStream(device);
  if (!stream.ok()) return stream.status();
  std::unique_ptr<DevicePool> pool(new DevicePool(device, *std::move(stream)));
  cudaMemPoolProps props = {};
  props.allocType = cudaMemAllocationTypePinned;
  props.location = {.type = cudaMemLocationTypeDevice, .id = device};
  cudaError_t error = cudaMemPoolCreate(&pool->pool_, &props);
  if (error == cudaSuccess) {
    std::uint64_t keep_everything = std::numeric_limits<std::uint64_t>::max();
    error = cudaMemPoolSetAttribute(pool->pool_, cudaMemPoolAttrReleaseThreshold, &keep_everything);
  }
  if (error != cudaSuccess) return ToStatus(error, "creating a memory pool");
  return pool;
}

DevicePool::~DevicePool() {
  static_cast<void>(cudaStreamSynchronize(stream_.get()));
  if (pool_ != nullptr) static_cast<void>(cudaMemPoolDestroy(pool_));
}

absl::StatusOr<std::byte*> DevicePool::Allocate(std::size_t bytes) {
  if (absl::Status status = UseDevice(device_); !status.ok()) return status;
  void* data = nullptr;
  cudaError_t error = cudaMallocFromPoolAsync(&data, bytes, pool_, stream_.get());
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream_.get());
  if (error != cudaSuccess) {
    return ToStatus(error, absl::StrCat("allocating ", bytes, " bytes of device memory"));
  }
  return static_cast<std::byte*>(data);
}

void DevicePool::Free(std::byte* data) { static_cast<void>(cudaFreeAsync(data, stream_.get())); }

absl::StatusOr<std::byte*> AllocatePinned(int device, std::size_t bytes) {
  if (absl::Status status = UseDevice(device); !status.ok()) return status;
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocPortable);
  if (error != cudaSuccess) {
    return ToStatus(error, absl::StrCat("allocating ", bytes, " bytes of page-locked memory"));
  }
  return static_cast<std::byte*>(data);
}

void FreePinned(std::byte* data) { static_cast<void>(cudaFreeHost(data)); }

}  // namespace sage::cuda
