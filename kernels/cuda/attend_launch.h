// The launches of one Attend() call.
#ifndef SAGE_KERNELS_CUDA_ATTEND_LAUNCH_H_
#define SAGE_KERNELS_CUDA_ATTEND_LAUNCH_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <span>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/device_state.h"
#include "kernels/cuda/work_list.h"

namespace sage::cuda {

// Both calls only queue work, on the current device.
class AttendLaunch {
 public:
  // `workspace` is device memory of WorkspaceLayout(tasks).bytes bytes. Errors: those of
  // MakeAttendPlan() and MakeTensorMap(), and UNIMPLEMENTED for a task that the device has no
  // kernel for.
  static absl::StatusOr<AttendLaunch> Create(const DeviceState& device,
                                             std::span<const AttendTask> tasks, void* workspace);

  // Queues the table of tasks, their lists of active blocks and the order of work.
  cudaError_t BuildLists(cudaStream_t stream) const;
  // Queues the attention, a launch for each kernel that the tasks need. The lists come first.
  cudaError_t RunKernels(cudaStream_t stream) const;

 private:
  AttendLaunch(const DeviceState& device, AttendPlan plan, const WorkspaceLayout& layout,
               std::byte* workspace);

  const DeviceState& device_;
  AttendPlan plan_;
  WorkListArgs lists_;
  DeviceTask* table_;
  WorkItem* items_;
  std::uint32_t* next_items_;
};

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_ATTEND_LAUNCH_H_
