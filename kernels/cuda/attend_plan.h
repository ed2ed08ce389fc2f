// From the tasks of one Attend() call to what its kernels read.
#ifndef SAGE_KERNELS_CUDA_ATTEND_PLAN_H_
#define SAGE_KERNELS_CUDA_ATTEND_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/device_task.h"
#include "kernels/cuda/work_list.h"

namespace sage::cuda {

// Which kernel a task needs.
struct KernelKey {
  Precision precision = Precision::kQkInt8PvFp16;
  DType dtype = DType::kFloat16;
  std::int64_t padded_dim = 0;

  friend bool operator==(const KernelKey&, const KernelKey&) = default;
  friend bool operator<(const KernelKey& a, const KernelKey& b) {
    return std::tie(a.precision, a.dtype, a.padded_dim) <
           std::tie(b.precision, b.dtype, b.padded_dim);
  }
};
KernelKey KeyOf(const KvTask& task);

// Tasks sorted by kernel, with the numbering of their items and list rows.
struct AttendPlan {
  struct Group {
    KernelKey key;
    TaskGroup range;
  };
  std::vector<DeviceTask> tasks;
  std::vector<Group> groups;
  std::int64_t num_rows = 0;
  std::int64_t num_items = 0;
};

// Errors: INVALID_ARGUMENT for misaligned operands, q_begin off the grid of tiles, or more work
// than one launch counts (2^31 items).
absl::StatusOr<AttendPlan> MakeAttendPlan(std::span<const AttendTask> tasks);

// Kernels read eight elements at a time.
inline constexpr std::uintptr_t kAlignment = 16;
inline constexpr std::uintptr_t kInt8Alignment = 8;
// INVALID_ARGUMENT where kernels could not read `heads` so many bytes at a time.
absl::Status CheckAlignment(const char* name, const ConstHeads& heads,
                            std::uintptr_t bytes = kAlignment);
absl::Status CheckKeyAlignment(const KvTask& task);
DeviceHeads ToDeviceHeads(const ConstHeads& heads, std::size_t element_bytes);
ElementType ToElementType(DType dtype);

// Offsets of the parts of an Attend() workspace. Sized by shapes alone, for the worst mask.
struct WorkspaceLayout {
  explicit WorkspaceLayout(std::span<const AttendTask> tasks);

  std::size_t tasks = 0;       // DeviceTask
  std::size_t rows = 0;        // ListRow
  std::size_t items = 0;       // WorkItem
  std::size_t next_items = 0;  // std::uint32_t, one a group
  std::size_t lists = 0;       // std::int32_t
  std::size_t bytes = 0;
};

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_ATTEND_PLAN_H_
