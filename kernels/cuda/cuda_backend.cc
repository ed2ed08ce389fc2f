#include "kernels/cuda/cuda_backend.h"

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/device_check.h"
#include "kernels/cuda/device_state.h"
#include "kernels/cuda/prepared_kv.h"
#include "kernels/cuda/resources.h"

namespace sage {
namespace {

class CudaBackend : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<Backend>> Create(const CudaBackendOptions& options) {
    absl::StatusOr<cuda::DeviceProperties> properties =
        cuda::CheckDevice(options.device, options.memory_limit_bytes);
    if (!properties.ok()) return properties.status();
    std::unique_ptr<CudaBackend> backend(new CudaBackend(*std::move(properties)));
    if (absl::Status status = backend->state_.LoadKernels(options.kernel_path); !status.ok()) {
      return status;
    }
    backend->info_.kernel_path = backend->state_.kernel_path();
    absl::StatusOr<std::unique_ptr<cuda::DevicePool>> pool =
        cuda::DevicePool::Create(options.device);
    if (!pool.ok()) return pool.status();
    backend->pool_ = *std::move(pool);
    return backend;
  }

  const BackendInfo& info() const override { return info_; }

  absl::Status CheckSupported(const AttentionProblem& problem) const override {
    const cuda::KernelKey key = {problem.precision, problem.dtype,
                                 cuda::PaddedHeadDim(problem.head_dim)};
    if (state_.HasKernel(key)) return absl::OkStatus();
    return absl::UnimplementedError(absl::StrCat("precision ", std::string(Name(problem.precision)),
                                                 " with dtype ", std::string(Name(problem.dtype)),
                                                 " has no kernel on ", info_.device_name, " (",
                                                 info_.kernel_path, ")"));
  }

  absl::StatusOr<Memory> Allocate(MemoryKind kind, std::size_t bytes) override {
    // An allocation of nothing still has an address of its own.
    const std::size_t size = bytes == 0 ? 1 : bytes;
    if (kind == MemoryKind::kHost) {
      absl::StatusOr<std::byte*> data = cuda::AllocatePinned(state_.properties().ordinal, size);
      if (!data.ok()) return data.status();
      return Memory(*data, size, [](std::byte* p, std::size_t) { cuda::FreePinned(p); });
    }
    if (absl::Status status = Reserve(size); !status.ok()) return status;
    absl::StatusOr<std::byte*> data = pool_->Allocate(size);
    if (!data.ok()) {
      Return(size);
      return data.status();
    }
    return Memory(*data, size, [this](std::byte* p, std::size_t freed) {
      pool_->Free(p);
      Return(freed);
    });
  }

  std::size_t PreparedKvBytes(const KvTask& task) const override {
    return cuda::PreparedKvLayout(task).bytes;
  }

  std::size_t AttendWorkspaceBytes(std::span<const AttendTask> tasks) const override {
    return cuda::WorkspaceLayout(tasks).bytes;
  }

  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    return cuda::CudaStream::Create(state_);
  }

  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override {
    absl::StatusOr<cuda::EventHandle> event = cuda::MakeEvent(state_.properties().ordinal);
    if (!event.ok()) return event.status();
    return std::make_unique<cuda::CudaEvent>(*std::move(event));
  }

  absl::Status Health() const override { return state_.Health(); }

 private:
  explicit CudaBackend(cuda::DeviceProperties properties)
      : info_{.name = "cuda",
              .device_name = properties.name,
              .kernel_path = {},
              .device_memory_bytes = properties.memory_limit_bytes},
        state_(std::move(properties)) {}

  absl::Status Reserve(std::size_t bytes) {
    const auto limit = static_cast<std::size_t>(info_.device_memory_bytes);
    if (bytes > limit) {
      return absl::FailedPreconditionError(
          absl::StrCat(bytes, " bytes are more than the device's limit of ", limit));
    }
    const absl::MutexLock lock(&mutex_);
    if (bytes > limit - allocated_bytes_) {
      return absl::ResourceExhaustedError(absl::StrCat(bytes, " bytes asked for, ",
                                                       limit - allocated_bytes_, " of ", limit,
                                                       " bytes of device memory left"));
    }
    allocated_bytes_ += bytes;
    return absl::OkStatus();
  }

  void Return(std::size_t bytes) {
    const absl::MutexLock lock(&mutex_);
    allocated_bytes_ -= bytes;
  }

  BackendInfo info_;  // immutable once created
  cuda::DeviceState state_;
  std::unique_ptr<cuda::DevicePool> pool_;
  absl::Mutex mutex_;
  std::size_t allocated_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaBackendOptions& options) {
  return CudaBackend::Create(options);
}

}  // namespace sage
