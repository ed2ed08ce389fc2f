#include "kernels/cuda/cuda_stream.h"

#include <memory>
#include <utility>

#include "absl/memory/memory.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/prepare_kv.h"
#include "kernels/cuda/prepare_values.h"

namespace sage::cuda {
namespace {

struct Callback {
  std::function<void(absl::Status)> function;
  DeviceState* state;
};

// Runs on a thread of the driver, which forbids calls into CUDA.
void RunCallback(cudaStream_t /*stream*/, cudaError_t error, void* data) {
  const std::unique_ptr<Callback> callback(static_cast<Callback*>(data));
  callback->function(callback->state->Check(error, "running queued work"));
}

}  // namespace

absl::StatusOr<double> CudaEvent::SecondsSince(const Event& earlier) const {
  float milliseconds = 0;
  const cudaError_t error = cudaEventElapsedTime(
      &milliseconds, static_cast<const CudaEvent&>(earlier).get(), event_.get());
  if (error != cudaSuccess) return ToStatus(error, "reading the time between events");
  return milliseconds * 1e-3;
}

absl::StatusOr<std::unique_ptr<CudaStream>> CudaStream::Create(DeviceState& state) {
  const int device = state.properties().ordinal;
  absl::StatusOr<StreamHandle> stream = MakeStream(device);
  if (!stream.ok()) return stream.status();
  absl::StatusOr<StreamHandle> lists = MakeStream(device);
  if (!lists.ok()) return lists.status();
  absl::StatusOr<EventHandle> fork = MakeEvent(device);
  if (!fork.ok()) return fork.status();
  absl::StatusOr<EventHandle> join = MakeEvent(device);
  if (!join.ok()) return join.status();
  return absl::WrapUnique(new CudaStream(state, *std::move(stream), *std::move(lists),
                                         *std::move(fork), *std::move(join)));
}

template <typename Call>
absl::Status CudaStream::Run(const char* action, const Call& call) {
  if (absl::Status status = UseDevice(state_.properties().ordinal); !status.ok()) return status;
  // Launches report the thread's last error: an allocation that failed before is not theirs.
  static_cast<void>(cudaGetLastError());
  return state_.Check(call(), action);
}

absl::Status CudaStream::Copy(void* target, const void* source, std::size_t bytes,
                              cudaMemcpyKind kind) {
  only_prepares_ = false;
  return Run("copying",
             [&] { return cudaMemcpyAsync(target, source, bytes, kind, stream_.get()); });
}

absl::Status CudaStream::CopyToDevice(void* device, const void* host, std::size_t bytes) {
  return Copy(device, host, bytes, cudaMemcpyHostToDevice);
}

absl::Status CudaStream::CopyToHost(void* host, const void* device, std::size_t bytes) {
  return Copy(host, device, bytes, cudaMemcpyDeviceToHost);
}

absl::Status CudaStream::PrepareKv(const KvTask& task, void* prepared) {
  if (absl::Status status = CheckQuantizedKeys(task); !status.ok()) return status;
  if (task.precision == Precision::kFp16) return absl::OkStatus();
  if (absl::Status status = CheckKeyAlignment(task); !status.ok()) return status;
  const PreparedKvLayout layout(task);
  auto* const base = static_cast<std::uint8_t*>(prepared);
  const bool given = task.k_scales.has_value();
  const PrepareKeysArgs args = {
      .k = ToDeviceHeads(task.k, given ? 1 : SizeOf(task.dtype)),
      .type = ToElementType(task.dtype),
      .num_heads = task.num_heads,
      .length_k = static_cast<std::int32_t>(task.length_k),
      .head_dim = static_cast<std::int32_t>(task.head_dim),
      .padded_dim = static_cast<std::int32_t>(PaddedHeadDim(task.head_dim)),
      .given_scales = given ? task.k_scales->scales : nullptr,
      .given_scales_head_stride = given ? task.k_scales->head_stride : 0,
      .given_smoothing = given ? task.k_scales->smoothing : nullptr,
      .used_blocks = task.used_blocks,
      .k8 = base + layout.k8,
      .scales = reinterpret_cast<float*>(base + layout.scales),
      .smoothing = reinterpret_cast<float*>(base + layout.smoothing),
  };
  absl::Status status = Run("quantising keys", [&] {
    const cudaError_t error =
        only_prepares_ ? cudaSuccess : cudaEventRecord(fork_.get(), stream_.get());
    only_prepares_ = error == cudaSuccess;
    return error == cudaSuccess ? LaunchPrepareKeys(args, stream_.get()) : error;
  });
  if (!status.ok() || task.precision != Precision::kQkInt8PvFp8) return status;
  return PrepareValues(task, layout, base);
}

absl::Status CudaStream::PrepareValues(const KvTask& task, const PreparedKvLayout& layout,
                                       std::uint8_t* base) {
  if (absl::Status status = CheckAlignment("v", task.v); !status.ok()) return status;
  const KernelKey key = KeyOf(task);
  if (absl::Status status = state_.CheckKernel(key); !status.ok()) return status;
  const PrepareValuesArgs args = {
      .v = ToDeviceHeads(task.v, SizeOf(task.dtype)),
      .type = ToElementType(task.dtype),
      .num_heads = task.num_heads,
      .length_k = static_cast<std::int32_t>(task.length_k),
      .head_dim = static_cast<std::int32_t>(task.head_dim),
      .padded_dim = static_cast<std::int32_t>(PaddedHeadDim(task.head_dim)),
      .range = state_.kernel(key).value_range,
      .v8 = base + layout.v8,
      .scales = reinterpret_cast<float*>(base + layout.v_scales),
      .means = reinterpret_cast<float*>(base + layout.v_means),
  };
  return Run("quantising values", [&] { return LaunchPrepareValues(args, stream_.get()); });
}

absl::Status CudaStream::Attend(std::span<const AttendTask> tasks, void* workspace) {
  const int device = state_.properties().ordinal;
  if (absl::Status status = UseDevice(device); !status.ok()) return status;
  const absl::StatusOr<AttendLaunch> launch = AttendLaunch::Create(state_, tasks, workspace);
  if (!launch.ok()) return launch.status();
  const bool beside_preparations = std::exchange(only_prepares_, false);
  return Run("attending", [&] {
    const cudaError_t error = BuildLists(*launch, beside_preparations);
    return error == cudaSuccess ? launch->RunKernels(stream_.get()) : error;
  });
}

cudaError_t CudaStream::BuildLists(const AttendLaunch& launch, bool beside_preparations) {
  if (!beside_preparations) return launch.BuildLists(stream_.get());
  cudaError_t error = cudaStreamWaitEvent(lists_.get(), fork_.get());
  if (error == cudaSuccess) error = launch.BuildLists(lists_.get());
  cudaError_t joined = cudaEventRecord(join_.get(), lists_.get());
  if (joined == cudaSuccess) joined = cudaStreamWaitEvent(stream_.get(), join_.get());
  // What has been queued uses the workspace, even after a failure: it ends before anything follows.
  if (joined != cudaSuccess) cudaStreamSynchronize(lists_.get());
  return error == cudaSuccess ? joined : error;
}

absl::Status CudaStream::Record(Event& event) {
  return Run("recording an event",
             [&] { return cudaEventRecord(static_cast<CudaEvent&>(event).get(), stream_.get()); });
}

absl::Status CudaStream::Wait(const Event& event) {
  only_prepares_ = false;
  return Run("waiting for an event", [&] {
    return cudaStreamWaitEvent(stream_.get(), static_cast<const CudaEvent&>(event).get());
  });
}

absl::Status CudaStream::Then(std::function<void(absl::Status)> callback) {
  auto data = std::make_unique<Callback>(Callback{std::move(callback), &state_});
  // Not cudaLaunchHostFunc, which is never called once the device has failed.
  absl::Status status = Run("queueing a callback", [&] {
    return cudaStreamAddCallback(stream_.get(), RunCallback, data.get(), 0);
  });
  if (status.ok()) static_cast<void>(data.release());  // RunCallback owns it now
  return status;
}

absl::Status CudaStream::Synchronize() {
  return Run("running queued work", [&] { return cudaStreamSynchronize(stream_.get()); });
}

}  // namespace sage::cuda
