// A CUDA error that the process does not recover from. A program of its own: nothing on the device
// works after it.
#include <cstddef>
#include <future>
#include <memory>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_stream.h"
#include "tests/support/cuda_device.h"
#include "tests/support/device_fault.h"

namespace sage {
namespace {

using CudaStickyErrorTest = testing::CudaFixture<>;

TEST_F(CudaStickyErrorTest, EndsEveryCallAndTheDevicesHealth) {
  constexpr std::size_t kBytes = 4096;
  const std::unique_ptr<Stream> stream = *backend_->CreateStream();
  const std::unique_ptr<Stream> bystander = *backend_->CreateStream();
  const Memory host = *backend_->Allocate(MemoryKind::kHost, kBytes);
  const Memory device = *backend_->Allocate(MemoryKind::kDevice, kBytes);
  ASSERT_TRUE(stream->CopyToDevice(device.data(), host.data(), kBytes).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  ASSERT_TRUE(backend_->Health().ok());

  ASSERT_EQ(testing::LaunchDeviceFault(static_cast<cuda::CudaStream&>(*stream).get()), cudaSuccess);
  std::promise<absl::Status> done;
  // The fault may be noticed before the callback is queued.
  const absl::Status queued = stream->Then([&](absl::Status status) { done.set_value(status); });
  if (queued.ok()) {
    EXPECT_EQ(done.get_future().get().code(), absl::StatusCode::kUnavailable);
  } else {
    EXPECT_EQ(queued.code(), absl::StatusCode::kUnavailable);
  }

  EXPECT_EQ(stream->Synchronize().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(bystander->CopyToHost(host.data(), device.data(), kBytes).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(backend_->Health().code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(backend_->Allocate(MemoryKind::kHost, kBytes).ok());
}

}  // namespace
}  // namespace sage
