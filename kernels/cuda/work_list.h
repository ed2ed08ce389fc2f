// Lists of active blocks and of work, built on the device from packed mask bits, lengths and
// causality.
#ifndef SAGE_KERNELS_CUDA_WORK_LIST_H_
#define SAGE_KERNELS_CUDA_WORK_LIST_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/device_task.h"

namespace sage::cuda {

// Tasks that one kernel runs: consecutive in the table, and so are their items.
struct TaskGroup {
  std::int32_t task_begin = 0;
  std::int32_t task_end = 0;
  std::int32_t item_begin = 0;
  std::int32_t item_end = 0;
};

struct WorkListArgs {
  const DeviceTask* tasks = nullptr;
  std::int32_t num_tasks = 0;
  std::int32_t num_rows = 0;
  ListRow* rows = nullptr;        // [num_rows]
  std::int32_t* lists = nullptr;  // sized for every block of every masked row
};

// Writes up to `count` tasks into the table at `table`, in device memory. They travel as kernel
// parameters, so `tasks` may be reused as soon as this returns.
cudaError_t LaunchWriteTasks(const DeviceTask* tasks, std::int32_t count, DeviceTask* table,
                             cudaStream_t stream);

// Queues the lists of active blocks of every tile, and their counts.
cudaError_t LaunchBuildLists(const WorkListArgs& args, cudaStream_t stream);

// Queues the work items of a group, longest first (to 1/16 of the longest), in the order of the
// table where they are alike, so that neighbours share keys in L2; sets *next_item to 0.
cudaError_t LaunchSortItems(const WorkListArgs& args, const TaskGroup& group, WorkItem* items,
                            std::uint32_t* next_item, cudaStream_t stream);

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_WORK_LIST_H_
