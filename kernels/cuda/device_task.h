// What the kernels of one Attend() call read: the table of tasks, and the lists of work built from
// it on the device. Plain data, shared by host and device code.
#ifndef SAGE_KERNELS_CUDA_DEVICE_TASK_H_
#define SAGE_KERNELS_CUDA_DEVICE_TASK_H_

#include <cuda.h>

#include <cstdint>

namespace sage::cuda {

inline constexpr int kTileRows = 128;  // query rows of a tile of the block mask
inline constexpr int kBlockKeys = 64;  // keys of a block

// What the copy engine of sm_90 fetches of a 16-bit tensor at once: 64 keys of 64 channels, which
// are the rows of a tile with the 128-byte swizzle.
inline constexpr int kBoxChannels = 64;
inline constexpr int kBoxRowBytes = kBoxChannels * 2;
inline constexpr int kBoxBytes = kBlockKeys * kBoxRowBytes;

// Element types as kernels tell them apart.
enum class ElementType : std::uint8_t { kFloat16, kBFloat16, kFloat32 };

// A [heads, rows, head_dim] tensor; strides in bytes, head_dim contiguous.
struct DeviceHeads {
  std::uint8_t* data;
  std::int64_t head_stride_bytes;
  std::int64_t row_stride_bytes;
};

// One task. Rows and tiles count from the task's first row.
struct DeviceTask {
  // k and v where they are as given, for the kernels of sm_90 (tensor_map.h).
  CUtensorMap k_map;
  CUtensorMap v_map;
  DeviceHeads q;  // as given, or `sage1` bytes where there are q_scales
  // As given, or prepared: k as `sage1` bytes [blocks, 64, padded head_dim] a head, v as e4m3
  // [blocks, padded head_dim, 64] a head (e4m3_order.cuh), both swizzled (swizzled_tile.cuh).
  DeviceHeads k;
  DeviceHeads v;
  DeviceHeads out;
  float* lse;                         // [num_heads_q, q_rows] or nullptr
  const float* k_scales;              // [num_heads_kv, blocks_k]; INT8 scores only
  const float* smoothing;             // [num_heads_kv, padded head_dim]; INT8 scores only
  const float* v_scales;              // [num_heads_kv, padded head_dim]; e4m3 values only
  const float* v_means;               // likewise
  const float* q_scales;              // [num_heads_q, q_rows], or nullptr: q is to be quantised
  const float* q_dots;                // likewise q . smoothing, or nullptr: nobody asks for lse
  std::int64_t q_scales_head_stride;  // of both, in floats
  const std::uint8_t* mask;  // packed bits of the task's first tile; nullptr lists every block
  std::int64_t mask_head_stride_bytes;
  std::int64_t mask_row_stride_bytes;
  std::int64_t list_begin;  // first entry of the task's active-block lists
  // Row r sees keys [0, clamp(r + diagonal, 0, length_k)); far past the end where not causal.
  std::int64_t diagonal;
  std::int32_t length_k;
  std::int32_t blocks_k;
  std::int32_t q_rows;      // rows of q, out and lse
  std::int32_t rows_valid;  // rows below the entry's query length; the rest get 0 and -inf
  std::int32_t num_tiles;
  std::int32_t num_heads_q;
  std::int32_t group_size;  // query heads a KV head
  std::int32_t head_dim;
  std::int32_t mask_heads;  // heads with lists of their own: 1 or num_heads_q
  std::int32_t item_begin;  // first of the task's num_heads_q * num_tiles work items
  std::int32_t row_begin;   // first of the task's mask_heads * num_tiles list rows
  float softmax_scale;
  ElementType output_type;
};

// Key blocks of one tile: lists[list_begin + ...][0, full) are seen whole by every row, the rest of
// [0, total) need element masks. Ascending, so the partial ones come last.
struct ListRow {
  std::int32_t full;
  std::int32_t total;
};

// One tile of one query head.
struct WorkItem {
  std::int32_t task;
  std::int32_t head;
  std::int32_t tile;
  std::int32_t row;  // its ListRow
};

// Everything that a kernel of the call needs, in device memory.
struct WorkTable {
  const DeviceTask* tasks;
  const ListRow* rows;
  const std::int32_t* lists;
  const WorkItem* items;     // of one kernel, longest first
  std::uint32_t* next_item;  // of one kernel; 0 at its start
  std::uint32_t num_items;
};

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_DEVICE_TASK_H_
