// What a thread block knows of its work item, a tile of 128 query rows of one head.
#ifndef SAGE_KERNELS_CUDA_TILE_CONTEXT_CUH_
#define SAGE_KERNELS_CUDA_TILE_CONTEXT_CUH_

#include <cstdint>

#include "kernels/cuda/device_task.h"

namespace sage::cuda {

inline constexpr float kLog2E = 1.4426950408889634F;
inline constexpr float kLn2 = 0.6931471805599453F;
inline constexpr float kNegativeInfinity = -__builtin_huge_valf();

// Lies in shared memory, for the sake of registers;
// what goes together is read together.
struct alignas(16) TileContext {
  const std::uint8_t* k;
  const std::uint8_t* v;
  std::uint32_t k_row_stride_bytes;
  std::uint32_t v_row_stride_bytes;
  std::int32_t length_k;
  std::int32_t head_dim;
  const float* k_scales;
  const std::int32_t* list;  // of key blocks: [0, full) whole, the rest of [0, total) partial
  const DeviceTask* task;
  const std::uint8_t* q;
  const float* smoothing;
  std::int32_t full;
  std::int32_t total;
  std::int32_t unpadded;  // entries [0, unpadded) are copied as they are, others may need zeros
  std::int32_t head;
  std::int32_t first_row;
  std::int32_t diagonal;  // row r of the tile sees keys [0, min(r + diagonal, length_k))
};

// For a kernel whose heads are padded to kHeadDim channels.
template <int kHeadDim>
__device__ __forceinline__ TileContext MakeContext(const WorkTable& table,
                                                   std::uint32_t item_index) {
  const WorkItem item = table.items[item_index];
  const DeviceTask& task = table.tasks[item.task];
  const ListRow row = table.rows[item.row];
  const std::int64_t head_kv = item.head / task.group_size;
  TileContext context;
  context.task = &task;
  context.list = table.lists + task.list_begin +
                 static_cast<std::int64_t>(item.row - task.row_begin) * task.blocks_k;
  context.head = item.head;
  context.first_row = item.tile * kTileRows;
  context.q = task.q.data + item.head * task.q.head_stride_bytes +
              context.first_row * task.q.row_stride_bytes;
  context.k = task.k.data + head_kv * task.k.head_stride_bytes;
  context.v = task.v.data + head_kv * task.v.head_stride_bytes;
  context.k_scales = task.k_scales + head_kv * task.blocks_k;
  context.smoothing = task.smoothing + head_kv * kHeadDim;
  context.k_row_stride_bytes = static_cast<std::uint32_t>(task.k.row_stride_bytes);
  context.v_row_stride_bytes = static_cast<std::uint32_t>(task.v.row_stride_bytes);
  context.full = row.full;
  context.total = row.total;
  context.unpadded = task.head_dim == kHeadDim ? row.full : 0;
  context.length_k = task.length_k;
  context.head_dim = task.head_dim;
  context.diagonal = static_cast<std::int32_t>(
      max(min(context.first_row + task.diagonal, static_cast<std::int64_t>(task.length_k)),
          static_cast<std::int64_t>(-kTileRows)));
  return context;
}

// Where the lse of a row of the tile lies.
__device__ __forceinline__ std::int64_t LseIndex(const TileContext& context, int row) {
  return static_cast<std::int64_t>(context.head) * context.task->q_rows + context.first_row + row;
}

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_TILE_CONTEXT_CUH_
