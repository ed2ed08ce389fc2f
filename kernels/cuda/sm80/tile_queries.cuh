// The prologue of INT8 scores: the queries of a tile in shared memory, 32 rows a warp.
#ifndef SAGE_KERNELS_CUDA_SM80_TILE_QUERIES_CUH_
#define SAGE_KERNELS_CUDA_SM80_TILE_QUERIES_CUH_

#include <cstdint>

#include "kernels/cuda/queries.cuh"
#include "kernels/cuda/sm80/policy.cuh"
#include "kernels/cuda/sm80/storage.cuh"

namespace sage::cuda::sm80 {

template <typename Policy>
struct TileQuerySink {
  SharedStorage<Policy>& storage;

  __device__ __forceinline__ void Store(int row, int part, const std::uint32_t* words) {
    StoreQueryBytes<Policy::kHeadDim>(storage.q(), row, part, words);
  }
  // Leaves what the lse of the row is to have added in the end in the place of the lse.
  __device__ __forceinline__ void StoreScale(int row, float scale, float dot) {
    const TileContext& context = storage.context;
    const DeviceTask& task = *context.task;
    storage.score_unit[row] = task.softmax_scale * kLog2E * scale;
    if (task.lse != nullptr && context.first_row + row < task.q_rows) {
      task.lse[LseIndex(context, row)] = task.softmax_scale * dot;
    }
  }
};

template <typename Policy>
__device__ __forceinline__ void LoadTileQueries(SharedStorage<Policy>& storage) {
  constexpr int kTurns = kWarpRows / 4;
  TileQuerySink<Policy> sink{storage};
  const int first_row = ptx::ThreadIndex() / 32 * kWarpRows;
  if (storage.context.task->q_scales == nullptr) {
    QueryRows<typename Policy::Element, Policy::kHeadDim, kTurns> rows;
    rows.Load(storage.context, first_row);
    rows.Quantize(storage.context, first_row, sink);
  } else {
    TakeGivenQueries<Policy::kHeadDim, kTurns>(storage.context, first_row, sink);
  }
}

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_TILE_QUERIES_CUH_
