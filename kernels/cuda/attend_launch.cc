#include "kernels/cuda/attend_launch.h"

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "kernels/cuda/device_task.h"
#include "kernels/cuda/kernel.h"
#include "kernels/cuda/tensor_map.h"

namespace sage::cuda {
namespace {

// Of K and V where they are as given.
absl::Status MakeTensorMaps(const KernelKey& key, DeviceTask& task) {
  if (task.length_k == 0) return absl::OkStatus();
  const auto make = [&](const DeviceHeads& heads, CUtensorMap& map) -> absl::Status {
    const absl::StatusOr<CUtensorMap> made = MakeTensorMap(
        heads, key.dtype, task.num_heads_q / task.group_size, task.length_k, task.head_dim);
    if (made.ok()) map = *made;
    return made.status();
  };
  if (key.precision == Precision::kFp16) {
    if (absl::Status status = make(task.k, task.k_map); !status.ok()) return status;
  }
  return make(task.v, task.v_map);
}

}  // namespace

absl::StatusOr<AttendLaunch> AttendLaunch::Create(const DeviceState& device,
                                                  std::span<const AttendTask> tasks,
                                                  void* workspace) {
  absl::StatusOr<AttendPlan> plan = MakeAttendPlan(tasks);
  if (!plan.ok()) return plan.status();
  for (const AttendPlan::Group& group : plan->groups) {
    if (absl::Status status = device.CheckKernel(group.key); !status.ok()) return status;
  }
  for (const AttendPlan::Group& group : plan->groups) {
    if (!device.kernel(group.key).needs_tensor_maps) continue;
    for (int i = group.range.task_begin; i < group.range.task_end; ++i) {
      if (absl::Status status = MakeTensorMaps(group.key, plan->tasks[i]); !status.ok()) {
        return status;
      }
    }
  }
  return AttendLaunch(device, *std::move(plan), WorkspaceLayout(tasks),
                      static_cast<std::byte*>(workspace));
}

AttendLaunch::AttendLaunch(const DeviceState& device, AttendPlan plan,
                           const WorkspaceLayout& layout, std::byte* workspace)
    : device_(device),
      plan_(std::move(plan)),
      table_(reinterpret_cast<DeviceTask*>(workspace + layout.tasks)),
      items_(reinterpret_cast<WorkItem*>(workspace + layout.items)),
      next_items_(reinterpret_cast<std::uint32_t*>(workspace + layout.next_items)) {
  lists_ = {.tasks = table_,
            .num_tasks = static_cast<std::int32_t>(plan_.tasks.size()),
            .num_rows = static_cast<std::int32_t>(plan_.num_rows),
            .rows = reinterpret_cast<ListRow*>(workspace + layout.rows),
            .lists = reinterpret_cast<std::int32_t*>(workspace + layout.lists)};
}

cudaError_t AttendLaunch::BuildLists(cudaStream_t stream) const {
  cudaError_t error = LaunchWriteTasks(plan_.tasks.data(), lists_.num_tasks, table_, stream);
  if (error == cudaSuccess) error = LaunchBuildLists(lists_, stream);
  for (std::size_t i = 0; i < plan_.groups.size() && error == cudaSuccess; ++i) {
    const TaskGroup& range = plan_.groups[i].range;
    error = LaunchSortItems(lists_, range, items_ + range.item_begin, next_items_ + i, stream);
  }
  return error;
}

cudaError_t AttendLaunch::RunKernels(cudaStream_t stream) const {
  cudaError_t error = cudaSuccess;
  for (std::size_t i = 0; i < plan_.groups.size() && error == cudaSuccess; ++i) {
    const TaskGroup& range = plan_.groups[i].range;
    const WorkTable work = {
        .tasks = table_,
        .rows = lists_.rows,
        .lists = lists_.lists,
        .items = items_ + range.item_begin,
        .next_item = next_items_ + i,
        .num_items = static_cast<std::uint32_t>(range.item_end - range.item_begin)};
    error = Launch(device_.kernel(plan_.groups[i].key), work, stream);
  }
  return error;
}

}  // namespace sage::cuda
