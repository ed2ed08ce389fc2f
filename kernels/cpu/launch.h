// PrepareKv and Attend as parallel loops over a thread pool. Both block until done.
#ifndef SAGE_KERNELS_CPU_LAUNCH_H_
#define SAGE_KERNELS_CPU_LAUNCH_H_

#include <cstddef>
#include <span>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace sage {

// Device memory that LaunchAttend needs, whatever the tasks: scratch for each thread of the pool.
std::size_t AttendScratchBytes(const ThreadPool& pool);

// `prepared` is 64-byte aligned and holds PreparedKvLayout(task).bytes() bytes.
void LaunchPrepareKv(const KvTask& task, std::byte* prepared, ThreadPool& pool);

// Tiles of all tasks, those with most blocks first. `scratch` is 64-byte aligned.
// RESOURCE_EXHAUSTED where there is no memory for the list of tiles; nothing was computed then.
absl::Status LaunchAttend(std::span<const AttendTask> tasks, std::byte* scratch, ThreadPool& pool);

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_LAUNCH_H_
