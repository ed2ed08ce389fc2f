// What the warps of a thread block know of a work item.
#ifndef SAGE_KERNELS_CUDA_SM90_CONTEXT_CUH_
#define SAGE_KERNELS_CUDA_SM90_CONTEXT_CUH_

#include <cstdint>

#include "kernels/cuda/tile_context.cuh"

namespace sage::cuda::sm90 {

// With all that consumers need of a task to begin and to end an item: nobody waits for device
// memory there.
struct ItemContext : TileContext {
  std::uint8_t* out;  // of the tile's first row
  std::int64_t out_row_stride_bytes;
  float* lse;             // of the tile's first row; nullptr: nobody asks for it
  const float* v_scales;  // of the KV head; e4m3 values only
  const float* v_means;
  std::int32_t rows;        // from the tile's first on, of the task: may be more than the tile has
  std::int32_t rows_valid;  // likewise; the others get 0 and -inf. Negative where none is
  float softmax_scale;
  bool quantized_queries;  // they came so
  ElementType output_type;
  // The begin of the list, a lane's each, and the scales of these blocks.
  std::int32_t first_blocks[32];
  float first_k_scales[32];
};

// Fills all but the begin of the list.
template <int kHeadDim>
__device__ __forceinline__ void FillContext(const WorkTable& table, std::uint32_t item_index,
                                            ItemContext& context) {
  static_cast<TileContext&>(context) = MakeContext<kHeadDim>(table, item_index);
  const DeviceTask& task = *context.task;
  const std::int64_t head_kv = context.head / task.group_size;
  context.out = task.out.data + context.head * task.out.head_stride_bytes +
                context.first_row * task.out.row_stride_bytes;
  context.out_row_stride_bytes = task.out.row_stride_bytes;
  context.lse = task.lse == nullptr ? nullptr : task.lse + LseIndex(context, 0);
  context.v_scales = task.v_scales + head_kv * kHeadDim;
  context.v_means = task.v_means + head_kv * kHeadDim;
  context.rows = task.q_rows - context.first_row;
  context.rows_valid = task.rows_valid - context.first_row;
  context.softmax_scale = task.softmax_scale;
  context.quantized_queries = task.q_scales != nullptr;
  context.output_type = task.output_type;
}

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_CONTEXT_CUH_
