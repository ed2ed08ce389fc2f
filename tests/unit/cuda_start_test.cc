// What CreateCudaBackend() answers, on machines with a GPU and without.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_status.h"
#include "tests/support/cuda_device.h"

namespace sage {
namespace {

using ::testing::HasSubstr;

TEST(CudaStartTest, WithoutADeviceTheErrorSaysWhatToDo) {
  const absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCudaBackend({});
  if (backend.ok()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(backend.status().message()), HasSubstr("use the CPU backend"));
}

TEST(CudaStatusTest, CodesFollowWhatTheCallerCanDo) {
  const auto code = [](cudaError_t error) { return cuda::ToStatus(error, "testing").code(); };
  EXPECT_EQ(code(cudaSuccess), absl::StatusCode::kOk);
  EXPECT_EQ(code(cudaErrorMemoryAllocation), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(code(cudaErrorNoDevice), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code(cudaErrorIllegalAddress), absl::StatusCode::kUnavailable);
  EXPECT_EQ(code(cudaErrorInvalidValue), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(cuda::ToStatus(cudaErrorNoDevice, "testing").message()),
              HasSubstr("testing"));
}

using CudaBackendTest = testing::CudaFixture<>;

TEST_F(CudaBackendTest, DescribesItsDevice) {
  EXPECT_EQ(backend_->info().name, "cuda");
  EXPECT_THAT(backend_->info().kernel_path, HasSubstr("sm"));
  EXPECT_GT(backend_->info().device_memory_bytes, 0);
  EXPECT_TRUE(backend_->Health().ok());
}

TEST_F(CudaBackendTest, RefusesDevicesThatDoNotExist) {
  EXPECT_EQ(CreateCudaBackend({.device = 1000}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(CudaBackendTest, RefusesMemoryLimitsThatCannotWork) {
  EXPECT_EQ(CreateCudaBackend({.memory_limit_bytes = 1}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CreateCudaBackend({.memory_limit_bytes = std::int64_t{1} << 50}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(CudaBackendTest, CountsMemoryAgainstItsLimit) {
  constexpr std::int64_t kMiB = 1 << 20;
  const std::unique_ptr<Backend> limited = *CreateCudaBackend({.memory_limit_bytes = 300 * kMiB});
  EXPECT_EQ(limited->Allocate(MemoryKind::kDevice, 301 * kMiB).status().code(),
            absl::StatusCode::kFailedPrecondition);
  absl::StatusOr<Memory> first = limited->Allocate(MemoryKind::kDevice, 200 * kMiB);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first->data()) % 256, 0U);
  EXPECT_EQ(limited->Allocate(MemoryKind::kDevice, 200 * kMiB).status().code(),
            absl::StatusCode::kResourceExhausted);
  first->Reset();
  EXPECT_TRUE(limited->Allocate(MemoryKind::kDevice, 200 * kMiB).ok());
}

TEST_F(CudaBackendTest, SaysWhichPrecisionsItHas) {
  AttentionProblem problem;
  problem.head_dim = 72;
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    problem.dtype = dtype;
    problem.precision = Precision::kQkInt8PvFp16;
    EXPECT_TRUE(backend_->CheckSupported(problem).ok());
    problem.precision = Precision::kFp16;
    EXPECT_TRUE(backend_->CheckSupported(problem).ok());
    problem.precision = Precision::kQkInt8PvFp8;
    EXPECT_TRUE(backend_->CheckSupported(problem).ok());
  }
}

TEST_F(CudaBackendTest, WorkOfTwoStreamsIsLinkedByEvents) {
  constexpr std::size_t kBytes = 1 << 20;
  const std::unique_ptr<Stream> upload = *backend_->CreateStream();
  const std::unique_ptr<Stream> download = *backend_->CreateStream();
  const std::unique_ptr<Event> begin = *backend_->CreateEvent();
  const std::unique_ptr<Event> uploaded = *backend_->CreateEvent();
  const Memory source = *backend_->Allocate(MemoryKind::kHost, kBytes);
  const Memory device = *backend_->Allocate(MemoryKind::kDevice, kBytes);
  const Memory target = *backend_->Allocate(MemoryKind::kHost, kBytes);
  std::fill_n(source.data(), kBytes, std::byte{42});
  std::fill_n(target.data(), kBytes, std::byte{0});
  ASSERT_TRUE(upload->Record(*begin).ok());
  ASSERT_TRUE(upload->CopyToDevice(device.data(), source.data(), kBytes).ok());
  ASSERT_TRUE(upload->Record(*uploaded).ok());
  ASSERT_TRUE(download->Wait(*uploaded).ok());
  ASSERT_TRUE(download->CopyToHost(target.data(), device.data(), kBytes).ok());
  std::promise<absl::Status> done;
  ASSERT_TRUE(download->Then([&](absl::Status status) { done.set_value(status); }).ok());
  EXPECT_TRUE(done.get_future().get().ok());
  EXPECT_EQ(std::count(target.data(), target.data() + kBytes, std::byte{42}), kBytes);
  EXPECT_GT(uploaded->SecondsSince(*begin).value(), 0.0);
}

}  // namespace
}  // namespace sage
