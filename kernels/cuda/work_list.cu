#include <algorithm>

#include "kernels/cuda/work_list.h"

namespace sage::cuda {
namespace {

constexpr int kListThreads = 128;  // a warp a row
constexpr int kSortThreads = 512;
constexpr int kBins = 16;

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
  for (int first = 0; first < blocks; first += 32) {
    const int block = first + lane;
    const bool listed =
        block < blocks && (task.mask == nullptr || (bits[block / 8] >> (block % 8) & 1) != 0);
    const unsigned votes = __ballot_sync(0xffffffffU, listed);
    if (listed) list[counts.total + __popc(votes & ((1U << lane) - 1))] = block;
    counts.full += __popc(__ballot_sync(0xffffffffU, listed && block < full_blocks));
    counts.total += __popc(votes);
  }
  if (lane == 0) args.rows[row] = counts;
}

// One thread block: a stable counting sort. Every thread places a run of consecutive items.
__global__ void __launch_bounds__(kSortThreads)
    SortItems(const WorkListArgs args, const TaskGroup group, WorkItem* items,
              std::uint32_t* next_item) {
  __shared__ std::int32_t counts[kBins][kSortThreads];
  __shared__ std::int32_t bin_begin[kBins];
  __shared__ std::int32_t longest;
  const int thread = threadIdx.x;
  const int run = (group.item_end - group.item_begin + kSortThreads - 1) / kSortThreads;
  const std::int32_t begin = min(group.item_begin + thread * run, group.item_end);
  const std::int32_t end = min(begin + run, group.item_end);

  // Calls visit(item, blocks) for the thread's items in order.
  const auto for_each_item = [&](auto visit) {
    int index =
        FindTask<&DeviceTask::item_begin>(args.tasks, group.task_begin, group.task_end, begin);
    for (std::int32_t i = begin; i < end; ++i) {
      while (index + 1 < group.task_end && args.tasks[index + 1].item_begin <= i) ++index;
      const DeviceTask& task = args.tasks[index];
      const std::int32_t local = i - task.item_begin;
      const std::int32_t head = local / task.num_tiles;
      const std::int32_t tile = local % task.num_tiles;
      const std::int32_t row = task.row_begin + (task.mask_heads == 1 ? tile : local);
      visit(WorkItem{index, head, tile, row}, args.rows[row].total);
    }
  };

  if (thread == 0) {
    longest = 0;
    *next_item = 0;
  }
  for (int bin = 0; bin < kBins; ++bin) counts[bin][thread] = 0;
  __syncthreads();
  std::int32_t own_longest = 0;
  for_each_item(
      [&](const WorkItem&, std::int32_t blocks) { own_longest = max(own_longest, blocks); });
  atomicMax(&longest, own_longest);
  __syncthreads();
  const std::int64_t scale = static_cast<std::int64_t>(longest) + 1;
  const auto bin_of = [scale](std::int32_t blocks) {
    return kBins - 1 - static_cast<int>(static_cast<std::int64_t>(blocks) * kBins / scale);
  };
  for_each_item([&](const WorkItem&, std::int32_t blocks) { ++counts[bin_of(blocks)][thread]; });
  __syncthreads();

  // Where each thread's items of each bin begin: a warp scans a bin's counts, then bins are summed.
  const int lane = thread % 32;
  for (int bin = thread / 32; bin < kBins; bin += kSortThreads / 32) {
    std::int32_t sum = 0;
    for (int first = 0; first < kSortThreads; first += 32) {
      const std::int32_t count = counts[bin][first + lane];
      std::int32_t scan = count;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const std::int32_t other = __shfl_up_sync(0xffffffffU, scan, step);
        if (lane >= step) scan += other;
      }
      counts[bin][first + lane] = sum + scan - count;
      sum += __shfl_sync(0xffffffffU, scan, 31);
    }
    if (lane == 0) bin_begin[bin] = sum;
  }
  __syncthreads();
  if (thread == 0) {
    std::int32_t sum = 0;
    for (int bin = 0; bin < kBins; ++bin) {
      const std::int32_t count = bin_begin[bin];
      bin_begin[bin] = sum;
      sum += count;
    }
  }
  __syncthreads();
  for_each_item([&](const WorkItem& item, std::int32_t blocks) {
    const int bin = bin_of(blocks);
    items[bin_begin[bin] + counts[bin][thread]++] = item;
  });
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
