#include <algorithm>

#include "kernels/cuda/work_list.h"

namespace sage::cuda {
namespace {

constexpr int kListThreads = 128;  // a warp a row
constexpr int kSortThreads = 1024;
constexpr int kSortWarps = kSortThreads / 32;
constexpr int kBins = 16;
static_assert(kSortWarps == 32 && kBins <= 32, "a warp scans what all warps have of a bin");

// Tasks that fit into the parameters of one kernel, few or many.
template <int kCount>
struct TaskBatch {
  DeviceTask tasks[kCount];
};
constexpr int kFewTasks = 4;
constexpr int kManyTasks = 56;
static_assert(sizeof(TaskBatch<kManyTasks>) < 32000, "kernel parameters are limited to 32 KB");

template <int kCount>
__global__ void WriteTasks(const __grid_constant__ TaskBatch<kCount> batch, std::int32_t count,
                           DeviceTask* table) {
  if (threadIdx.x < count) table[threadIdx.x] = batch.tasks[threadIdx.x];
}

// The last of `count` tasks whose `begin` is not past `index`.
template <std::int32_t DeviceTask::*begin>
__device__ int FindTask(const DeviceTask* tasks, int first, int last, std::int32_t index) {
  while (last - first > 1) {
    const int middle = (first + last) / 2;
    (tasks[middle].*begin <= index ? first : last) = middle;
  }
  return first;
}

__device__ __forceinline__ std::int64_t Clamp(std::int64_t x, std::int64_t low, std::int64_t high) {
  return min(max(x, low), high);
}

__global__ void __launch_bounds__(kListThreads) BuildLists(const WorkListArgs args) {
  const int row = blockIdx.x * (kListThreads / 32) + threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  if (row >= args.num_rows) return;
  const DeviceTask& task =
      args.tasks[FindTask<&DeviceTask::row_begin>(args.tasks, 0, args.num_tasks, row)];
  const int mask_head = (row - task.row_begin) / task.num_tiles;
  const int tile = (row - task.row_begin) % task.num_tiles;

  // Keys that every row of the tile sees, and that some row sees.
  const std::int64_t first_row = static_cast<std::int64_t>(tile) * kTileRows;
  const std::int64_t last_row =
      min(first_row + kTileRows, static_cast<std::int64_t>(task.rows_valid)) - 1;
  const std::int64_t common_end = Clamp(first_row + task.diagonal, 0, task.length_k);
  const std::int64_t end =
      last_row < first_row ? 0 : Clamp(last_row + task.diagonal, 0, task.length_k);
  const int blocks = static_cast<int>((end + kBlockKeys - 1) / kBlockKeys);
  const int full_blocks = min(static_cast<int>(common_end / kBlockKeys), blocks);

  const std::uint8_t* bits =
      task.mask + mask_head * task.mask_head_stride_bytes + tile * task.mask_row_stride_bytes;
  std::int32_t* list = args.lists + task.list_begin +
                       static_cast<std::int64_t>(row - task.row_begin) * task.blocks_k;
  ListRow counts = {0, 0};
#pragma unroll 4
  for (int first = 0; first < blocks; first += 32) {
    const int block = first + lane;
    const bool listed = block < blocks &&
                        (task.mask == nullptr || (__ldg(bits + block / 8) >> (block % 8) & 1) != 0);
    const unsigned votes = __ballot_sync(0xffffffffU, listed);
    if (listed) list[counts.total + __popc(votes & ((1U << lane) - 1))] = block;
    counts.full += __popc(__ballot_sync(0xffffffffU, listed && block < full_blocks));
    counts.total += __popc(votes);
  }
  if (lane == 0) args.rows[row] = counts;
}

// One thread block: a stable counting sort. All threads take neighbouring items at once.
__global__ void __launch_bounds__(kSortThreads)
    SortItems(const WorkListArgs args, const TaskGroup group, WorkItem* items,
              std::uint32_t* next_item) {
  __shared__ std::int32_t longest;
  __shared__ std::int32_t bin_next[kBins];  // where the next items of a bin go
  // Of the items that are taken at once: how many of a bin a warp has, then where these go.
  __shared__ std::int32_t warp_items[kSortWarps][kBins];
  const int thread = threadIdx.x;
  const int lane = thread % 32;
  const int warp = thread / 32;
  if (thread == 0) {
    longest = 0;
    *next_item = 0;
  }
  if (thread < kBins) bin_next[thread] = 0;
  __syncthreads();

  const DeviceTask& last_task = args.tasks[group.task_end - 1];
  const std::int32_t row_end = last_task.row_begin + last_task.num_tiles * last_task.mask_heads;
  std::int32_t own_longest = 0;
#pragma unroll 4
  for (int row = args.tasks[group.task_begin].row_begin + thread; row < row_end;
       row += kSortThreads) {
    own_longest = max(own_longest, __ldg(&args.rows[row].total));
  }
  own_longest = __reduce_max_sync(0xffffffffU, own_longest);
  if (lane == 0) atomicMax(&longest, own_longest);
  __syncthreads();

  const std::int32_t scale = longest + 1;
  const auto item_at = [&](std::int32_t i) {
    const int index =
        FindTask<&DeviceTask::item_begin>(args.tasks, group.task_begin, group.task_end, i);
    const DeviceTask& task = args.tasks[index];
    const std::int32_t local = i - task.item_begin;
    const std::int32_t head = local / task.num_tiles;
    const std::int32_t tile = local % task.num_tiles;
    return WorkItem{index, head, tile, task.row_begin + (task.mask_heads == 1 ? tile : local)};
  };
  const auto bin_of = [&](const WorkItem& item) {
    // Fewer than 2^26 blocks.
    return kBins - 1 - __ldg(&args.rows[item.row].total) * kBins / scale;
  };

#pragma unroll 4
  for (int i = group.item_begin + thread; i < group.item_end; i += kSortThreads) {
    const int bin = bin_of(item_at(i));
    const unsigned alike = __match_any_sync(__activemask(), bin);
    if (lane == __ffs(alike) - 1) atomicAdd(&bin_next[bin], __popc(alike));
  }
  __syncthreads();
  if (thread == 0) {
    std::int32_t sum = 0;
    for (std::int32_t& next : bin_next) {
      const std::int32_t count = next;
      next = sum;
      sum += count;
    }
  }

  for (int first = group.item_begin; first < group.item_end; first += kSortThreads) {
    const int i = first + thread;
    const bool exists = i < group.item_end;
    WorkItem item = {};
    if (exists) item = item_at(i);
    const int bin = exists ? bin_of(item) : kBins;
    const unsigned alike = __match_any_sync(0xffffffffU, bin);
    const int rank = __popc(alike & ((1U << lane) - 1));
    if (lane < kBins) warp_items[warp][lane] = 0;
    __syncwarp();
    if (exists && rank == 0) warp_items[warp][bin] = __popc(alike);
    __syncthreads();
    if (warp < kBins) {  // a warp a bin, a lane a warp
      const std::int32_t count = warp_items[lane][warp];
      std::int32_t sum = count;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const std::int32_t other = __shfl_up_sync(0xffffffffU, sum, step);
        if (lane >= step) sum += other;
      }
      const std::int32_t begin = bin_next[warp];
      __syncwarp();
      warp_items[lane][warp] = begin + sum - count;
      if (lane == 31) bin_next[warp] = begin + sum;
    }
    __syncthreads();
    if (exists) items[warp_items[warp][bin] + rank] = item;
    __syncwarp();
  }
}

template <int kCount>
cudaError_t LaunchWriteBatch(const DeviceTask* tasks, std::int32_t count, DeviceTask* table,
                             cudaStream_t stream) {
  TaskBatch<kCount> batch;
  std::copy_n(tasks, count, batch.tasks);
  WriteTasks<kCount><<<1, kCount, 0, stream>>>(batch, count, table);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchWriteTasks(const DeviceTask* tasks, std::int32_t count, DeviceTask* table,
                             cudaStream_t stream) {
  if (count <= kFewTasks) return LaunchWriteBatch<kFewTasks>(tasks, count, table, stream);
  for (std::int32_t first = 0; first < count; first += kManyTasks) {
    const cudaError_t error = LaunchWriteBatch<kManyTasks>(
        tasks + first, std::min(kManyTasks, count - first), table + first, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t LaunchBuildLists(const WorkListArgs& args, cudaStream_t stream) {
  constexpr int kRowsPerBlock = kListThreads / 32;
  const unsigned blocks = (args.num_rows + kRowsPerBlock - 1) / kRowsPerBlock;
  if (blocks > 0) BuildLists<<<blocks, kListThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t LaunchSortItems(const WorkListArgs& args, const TaskGroup& group, WorkItem* items,
                            std::uint32_t* next_item, cudaStream_t stream) {
  SortItems<<<1, kSortThreads, 0, stream>>>(args, group, items, next_item);
  return cudaGetLastError();
}

}  // namespace sage::cuda
