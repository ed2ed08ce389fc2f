// Block-sparse attention of many tasks with wgmma and the copy engine, for sm_90a.
//
//   o = softmax(scale * q k^T, masked) v, by online softmax over listed key blocks
//
// Source: FlashAttention-3 (Shah et al., 2024) for warps of different roles and products under the
// softmax, SageAttention (Zhang et al., 2024) for INT8 scores with smoothed K. One work item is a
// tile of 128 query rows of one head; thread blocks are persistent, one or two an SM (policy.cuh):
//
//   producers   warp 0   copies listed blocks of K and V into a ring of stages
//               warp 1   draws the items, longest first
//               others   copy the queries of the next item
//   consumers   rows 0 to 63 of the tile, and rows 64 to 127: quantise their queries, then scores,
//               softmax and sums; write the rows
//
// They meet at barriers only where one hands something to another (storage.cuh), so that the next
// item begins under the end of the last. What an item computes depends on nothing but its own task,
// so its bits do not either.
#ifndef SAGE_KERNELS_CUDA_SM90_ATTEND_CUH_
#define SAGE_KERNELS_CUDA_SM90_ATTEND_CUH_

#include "kernels/cuda/ptx/warpgroup.cuh"
#include "kernels/cuda/sm90/consumer.cuh"
#include "kernels/cuda/sm90/producer.cuh"

namespace sage::cuda::sm90 {

template <typename Policy>
__global__ void __launch_bounds__(Policy::kThreads, Policy::kBlocksPerSm)
    Attend(const WorkTable table) {
  extern __shared__ __align__(1024) std::uint8_t smem[];
  auto& storage = *reinterpret_cast<SharedStorage<Policy>*>(smem);
  if (threadIdx.x == 0) storage.InitBarriers();
  if constexpr (Policy::kE4m3Values) {
    constexpr std::uint32_t kOnes = 0x38383838U;
    constexpr int kWords = (Policy::kValueTileBytes - Policy::kValueBytes) / 4;
    constexpr int kTiles = Policy::kStages * Policy::kTurnBlocks;
    for (int i = static_cast<int>(threadIdx.x); i < kTiles * kWords; i += Policy::kThreads) {
      const int tile = i / kWords;
      std::uint8_t* const v = storage.v[tile / Policy::kTurnBlocks][tile % Policy::kTurnBlocks];
      reinterpret_cast<std::uint32_t*>(v + Policy::kValueBytes)[i % kWords] = kOnes;
    }
    ptx::FenceAsyncProxy();
  }
  __syncthreads();

  const int warp = __shfl_sync(0xffffffffU, static_cast<int>(threadIdx.x) / 32, 0);
  constexpr int kProducerWarps = kWarpgroupThreads / 32;
  if (warp < kProducerWarps) {
    ptx::LeaveRegisters<Policy::kProducerRegisters>();
    if (warp == 0) {
      CopyBlocks(storage);
    } else if (warp == 1) {
      Schedule(storage, table);
    } else {
      FetchQueries(storage, warp - 2);
    }
  } else {
    ptx::TakeRegisters<Policy::kConsumerRegisters>();
    Consumer<Policy>(storage, (warp - kProducerWarps) / 4).Run();
  }
}

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_ATTEND_CUH_
