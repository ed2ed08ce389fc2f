// A queue of work on one CUDA device.
#ifndef SAGE_KERNELS_CUDA_CUDA_STREAM_H_
#define SAGE_KERNELS_CUDA_CUDA_STREAM_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/attend_launch.h"
#include "kernels/cuda/device_state.h"
#include "kernels/cuda/prepared_kv.h"
#include "kernels/cuda/resources.h"

namespace sage::cuda {

class CudaEvent : public Event {
 public:
  explicit CudaEvent(EventHandle event) : event_(std::move(event)) {}

  absl::StatusOr<double> SecondsSince(const Event& earlier) const override;
  cudaEvent_t get() const { return event_.get(); }

 private:
  EventHandle event_;
};

// Used by one thread at a time; any thread may be that one. `state` outlives it.
//
// Lists of work need nothing of what is prepared: Attend() builds them beside preparations that it
// directly follows, on a stream of their own.
class CudaStream : public Stream {
 public:
  static absl::StatusOr<std::unique_ptr<CudaStream>> Create(DeviceState& state);

  absl::Status CopyToDevice(void* device, const void* host, std::size_t bytes) override;
  absl::Status CopyToHost(void* host, const void* device, std::size_t bytes) override;
  absl::Status PrepareKv(const KvTask& task, void* prepared) override;
  absl::Status Attend(std::span<const AttendTask> tasks, void* workspace) override;
  absl::Status Record(Event& event) override;
  absl::Status Wait(const Event& event) override;
  absl::Status Then(std::function<void(absl::Status)> callback) override;
  absl::Status Synchronize() override;

  cudaStream_t get() const { return stream_.get(); }

 private:
  CudaStream(DeviceState& state, StreamHandle stream, StreamHandle lists, EventHandle fork,
             EventHandle join)
      : state_(state),
        lists_(std::move(lists)),
        fork_(std::move(fork)),
        join_(std::move(join)),
        stream_(std::move(stream)) {}

  absl::Status PrepareValues(const KvTask& task, const PreparedKvLayout& layout,
                             std::uint8_t* base);
  absl::Status Copy(void* target, const void* source, std::size_t bytes, cudaMemcpyKind kind);
  // Makes the device current, so that `call` may use it, and maps its error.
  template <typename Call>
  absl::Status Run(const char* action, const Call& call);
  cudaError_t BuildLists(const AttendLaunch& launch, bool beside_preparations);

  DeviceState& state_;
  StreamHandle lists_;
  EventHandle fork_;            // recorded before the preparations that were queued last
  EventHandle join_;            // of lists_ into stream_
  bool only_prepares_ = false;  // since fork_
  StreamHandle stream_;
};

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_CUDA_STREAM_H_
