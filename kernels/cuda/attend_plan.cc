#include "kernels/cuda/attend_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/memory_layout.h"
#include "kernels/cuda/prepared_kv.h"

namespace sage::cuda {
namespace {

static_assert(kTileRows == kBlockM && kBlockKeys == kBlockN);

// Kernels step over several rows by 32-bit products.
constexpr std::int64_t kMaxRowStride = std::int64_t{1} << 24;
// Kernels count rows and keys, up to the next tile, in 32 bits.
constexpr std::int64_t kMaxLength = (std::int64_t{1} << 31) - 1024;
// Past every key, for rows that causality does not bound.
constexpr std::int64_t kNoDiagonal = std::int64_t{1} << 40;
// Kernels of all precisions, dtypes and paddings: more groups cannot be.
constexpr std::int64_t kMaxGroups = 16;

std::int64_t NumTiles(const AttendTask& task) { return CeilDiv(task.q_rows, kBlockM); }
std::int64_t NumBlocks(const AttendTask& task) { return CeilDiv(task.kv.length_k, kBlockN); }

absl::Status CheckTask(const AttendTask& task) {
  if (task.q_begin % kBlockM != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("q_begin is ", task.q_begin, ", must be a multiple of ", kBlockM));
  }
  if (task.kv.length_k > kMaxLength || task.q_rows > kMaxLength) {
    return absl::InvalidArgumentError(absl::StrCat("a task has ", task.q_rows, " rows and ",
                                                   task.kv.length_k, " keys, allowed: up to ",
                                                   kMaxLength, " each"));
  }
  if (absl::Status status = CheckQuantizedKeys(task.kv); !status.ok()) return status;
  if (absl::Status status = CheckQuantizedQueries(task); !status.ok()) return status;
  const std::uintptr_t q_alignment = task.q_scales.has_value() ? kInt8Alignment : kAlignment;
  if (absl::Status status = CheckAlignment("q", task.q, q_alignment); !status.ok()) return status;
  if (absl::Status status = CheckKeyAlignment(task.kv); !status.ok()) return status;
  if (absl::Status status = CheckAlignment("v", task.kv.v); !status.ok()) return status;
  return CheckAlignment("out", {task.out.data, task.out.head_stride, task.out.row_stride});
}

// All of a task but its place in the table.
DeviceTask ToDeviceTask(const AttendTask& task) {
  const KvTask& kv = task.kv;
  DeviceTask device = {};
  device.q = ToDeviceHeads(task.q, task.q_scales.has_value() ? 1 : SizeOf(kv.dtype));
  device.k = ToDeviceHeads(kv.k, SizeOf(kv.dtype));  // but for INT8 scores
  device.v = ToDeviceHeads(kv.v, SizeOf(kv.dtype));
  device.out = ToDeviceHeads({task.out.data, task.out.head_stride, task.out.row_stride},
                             SizeOf(task.output_dtype));
  device.blocks_k = static_cast<std::int32_t>(NumBlocks(task));
  if (kv.precision != Precision::kFp16) {
    const PreparedKvLayout layout(kv);
    const auto* base = static_cast<const std::uint8_t*>(task.prepared_kv);
    const std::int64_t row_bytes = PaddedHeadDim(kv.head_dim);
    device.k = {.data = const_cast<std::uint8_t*>(base + layout.k8),
                .head_stride_bytes = NumBlocks(task) * kBlockN * row_bytes,
                .row_stride_bytes = row_bytes};
    device.k_scales = reinterpret_cast<const float*>(base + layout.scales);
    device.smoothing = reinterpret_cast<const float*>(base + layout.smoothing);
    if (kv.precision == Precision::kQkInt8PvFp8) {
      device.v = {.data = const_cast<std::uint8_t*>(base + layout.v8),
                  .head_stride_bytes = NumBlocks(task) * kBlockN * row_bytes,
                  .row_stride_bytes = kBlockN};
      device.v_scales = reinterpret_cast<const float*>(base + layout.v_scales);
      device.v_means = reinterpret_cast<const float*>(base + layout.v_means);
    }
  }
  if (task.q_scales.has_value()) {
    device.q_scales = task.q_scales->scales;
    device.q_dots = task.q_scales->dot_smoothing;
    device.q_scales_head_stride = task.q_scales->head_stride;
  }
  device.lse = task.lse;
  if (!task.mask.full()) {
    device.mask = task.mask.bits + task.q_begin / kBlockM * task.mask.row_stride_bytes;
    device.mask_head_stride_bytes = task.mask.head_stride_bytes;
    device.mask_row_stride_bytes = task.mask.row_stride_bytes;
  }
  device.diagonal = task.is_causal ? task.q_begin + 1 + kv.length_k - task.length_q : kNoDiagonal;
  device.length_k = static_cast<std::int32_t>(kv.length_k);
  device.q_rows = static_cast<std::int32_t>(task.q_rows);
  device.rows_valid = static_cast<std::int32_t>(
      std::clamp<std::int64_t>(task.length_q - task.q_begin, 0, task.q_rows));
  device.num_tiles = static_cast<std::int32_t>(NumTiles(task));
  device.num_heads_q = static_cast<std::int32_t>(task.num_heads_q);
  device.group_size = static_cast<std::int32_t>(task.num_heads_q / kv.num_heads);
  device.head_dim = static_cast<std::int32_t>(kv.head_dim);
  device.mask_heads =
      device.mask == nullptr || device.mask_head_stride_bytes == 0 ? 1 : device.num_heads_q;
  device.softmax_scale = task.softmax_scale;
  device.output_type = ToElementType(task.output_dtype);
  return device;
}

}  // namespace

KernelKey KeyOf(const KvTask& task) {
  return {task.precision, task.dtype, PaddedHeadDim(task.head_dim)};
}

absl::Status CheckAlignment(const char* name, const ConstHeads& heads, std::uintptr_t bytes) {
  constexpr std::int64_t kElements = 8;
  if (reinterpret_cast<std::uintptr_t>(heads.data) % bytes != 0 ||
      heads.head_stride % kElements != 0 || heads.row_stride % kElements != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has strides of ", heads.head_stride, " and ", heads.row_stride,
                     " elements or lies off the grid; it must be aligned to ", bytes,
                     " bytes with strides that are multiples of ", kElements));
  }
  if (heads.row_stride < 0 || heads.row_stride >= kMaxRowStride) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has a row stride of ", heads.row_stride,
                                                   " elements, allowed: 0 to ", kMaxRowStride - 1));
  }
  return absl::OkStatus();
}

absl::Status CheckKeyAlignment(const KvTask& task) {
  return CheckAlignment("k", task.k, task.k_scales.has_value() ? kInt8Alignment : kAlignment);
}

DeviceHeads ToDeviceHeads(const ConstHeads& heads, std::size_t element_bytes) {
  const auto size = static_cast<std::int64_t>(element_bytes);
  // Kernels write through `out` alone.
  return {.data = static_cast<std::uint8_t*>(const_cast<void*>(heads.data)),
          .head_stride_bytes = heads.head_stride * size,
          .row_stride_bytes = heads.row_stride * size};
}

ElementType ToElementType(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return ElementType::kFloat16;
    case DType::kBFloat16:
      return ElementType::kBFloat16;
    case DType::kFloat32:
      break;
  }
  return ElementType::kFloat32;
}

absl::StatusOr<AttendPlan> MakeAttendPlan(std::span<const AttendTask> tasks) {
  std::vector<std::size_t> order(tasks.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return KeyOf(tasks[a].kv) < KeyOf(tasks[b].kv);
  });

  AttendPlan plan;
  plan.tasks.reserve(tasks.size());
  std::int64_t list_entries = 0;
  for (const std::size_t index : order) {
    const AttendTask& task = tasks[index];
    if (absl::Status status = CheckTask(task); !status.ok()) return status;
    if (task.q_rows == 0) continue;
    DeviceTask device = ToDeviceTask(task);
    device.item_begin = static_cast<std::int32_t>(plan.num_items);
    device.row_begin = static_cast<std::int32_t>(plan.num_rows);
    device.list_begin = list_entries;
    const std::int64_t rows = NumTiles(task) * device.mask_heads;
    plan.num_rows += rows;
    plan.num_items += NumTiles(task) * task.num_heads_q;
    list_entries += rows * NumBlocks(task);
    if (plan.num_items > std::numeric_limits<std::int32_t>::max()) {
      return absl::InvalidArgumentError("one launch has more than 2^31 tiles; cut it into units");
    }

    const auto end = static_cast<std::int32_t>(plan.tasks.size()) + 1;
    if (plan.groups.empty() || plan.groups.back().key != KeyOf(task.kv)) {
      plan.groups.push_back(
          {KeyOf(task.kv), {.task_begin = end - 1, .item_begin = device.item_begin}});
    }
    plan.groups.back().range.task_end = end;
    plan.groups.back().range.item_end = static_cast<std::int32_t>(plan.num_items);
    plan.tasks.push_back(device);
  }
  return plan;
}

WorkspaceLayout::WorkspaceLayout(std::span<const AttendTask> all) {
  std::int64_t num_items = 0;
  std::int64_t entries = 0;
  for (const AttendTask& task : all) {
    const std::int64_t task_items = NumTiles(task) * task.num_heads_q;
    num_items += task_items;
    entries += task_items * NumBlocks(task);
  }
  MemoryLayout layout;
  tasks = layout.Add<DeviceTask>(static_cast<std::int64_t>(all.size()));
  rows = layout.Add<ListRow>(num_items);
  items = layout.Add<WorkItem>(num_items);
  next_items = layout.Add<std::uint32_t>(kMaxGroups);
  lists = layout.Add<std::int32_t>(entries);
  bytes = layout.bytes();
}

}  // namespace sage::cuda
