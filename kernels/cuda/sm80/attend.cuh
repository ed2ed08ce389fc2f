// Block-sparse attention of many tasks with mma.sync, for every GPU from sm_80 on.
//
//   o = softmax(scale * q k^T, masked) v, by online softmax over listed key blocks
//
// Source: FlashAttention-2 (Dao, 2023) for the loop, SageAttention (Zhang et al., 2024) for INT8
// scores with smoothed K. One work item is a tile of 128 query rows of one head; four warps take 32
// rows each, so that every fragment of K and V read from shared memory feeds two MMAs:
//
//              key block i            channels
//   warp 0   [32 x 64 scores]  ->  [32 x head_dim]    K: ldmatrix, V: ldmatrix.trans
//   warp 1   [32 x 64 scores]  ->  [32 x head_dim]    scores, P and the sums stay in registers
//   warp 2   ...
//   warp 3   ...
//
// All warps fetch blocks by cp.async into a ring of stages, one barrier a block. The grid is
// persistent: thread blocks draw items from an atomic counter, longest first. What an item computes
// depends on nothing but its own task, so its bits do not either.
#ifndef SAGE_KERNELS_CUDA_SM80_ATTEND_CUH_
#define SAGE_KERNELS_CUDA_SM80_ATTEND_CUH_

#include <cstdint>

#include "kernels/cuda/device_task.h"
#include "kernels/cuda/ptx/cp_async.cuh"
#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/sm80/attend_shape.h"
#include "kernels/cuda/sm80/copy_blocks.cuh"
#include "kernels/cuda/sm80/policy.cuh"
#include "kernels/cuda/sm80/storage.cuh"
#include "kernels/cuda/sm80/tile_queries.cuh"
#include "kernels/cuda/sm80/warp_tile.cuh"

namespace sage::cuda::sm80 {

// Entry `i` of the list of key blocks, or any other where there is none. Asked for a block's work
// before it is needed.
__device__ __forceinline__ int ListedBlock(const TileContext& context, int i) {
  return __ldg(context.list + min(i, context.total - 1));
}

// How far the mainloop has come: entry `i` of the list of blocks lies in `stage`, and the next to
// be copied is `next_block`.
struct Progress {
  int i = 0;
  int stage = 0;
  int next_block = 0;
};

// Entries [at.i, end) of the list of blocks, all whole or all partial.
template <bool kPartial, typename Policy>
__device__ __forceinline__ void AddBlocks(SharedStorage<Policy>& storage, WarpTile<Policy>& warp,
                                          int end, Progress& at) {
  constexpr int kAhead = Policy::kStages - 1;
  // Masking takes registers: half of the keys at a time.
  constexpr int kKeys = kPartial ? 32 : Policy::kStepKeys;
  for (; at.i < end; ++at.i) {
    ptx::WaitForCopies<kAhead - 1>();
    if constexpr (kPartial) ContainBadValues(storage, at.stage, at.i);
    __syncthreads();
    if constexpr (kPartial) {
      if (threadIdx.x < 2) {
        storage.bad_keys[(at.i + kBadKeySlots - 1) % kBadKeySlots][threadIdx.x] = 0;
      }
    }
    BlockSource<Policy> source;
    if constexpr (!Policy::kShortOfRegisters) source.Read(storage.context);
#pragma unroll 1
    for (int step = 0; step < kBlockKeys / kKeys; ++step) {
      Scores<Policy, kKeys> scores;
      warp.template MultiplyKeys<kKeys>(at.stage, step, scores);
      if (step == 0) {
        // Issued under the tensor cores' work, into the stage of the block before this one.
        if constexpr (Policy::kShortOfRegisters) source.Read(storage.context);
        const int target = at.stage == 0 ? kAhead : at.stage - 1;
        if (!kPartial && at.i + kAhead < storage.context.unpadded) {
          CopyBlock<true>(storage, source, target, at.next_block);
        } else if (at.i + kAhead < storage.context.total) {
          CopyBlock<false>(storage, source, target, at.next_block);
        }
        ptx::CommitCopies();
        at.next_block = ListedBlock(storage.context, at.i + kAhead + 1);
      }
      warp.template AddStep<kPartial, kKeys>(at.stage, step, at.i, scores);
    }
    at.stage = at.stage == kAhead ? 0 : at.stage + 1;
  }
}

template <typename Policy>
__device__ __forceinline__ void AttendItem(SharedStorage<Policy>& storage) {
  constexpr int kAhead = Policy::kStages - 1;
  const TileContext& context = storage.context;

  // Prologue: the first blocks are on their way while Q is quantised.
  if constexpr (!Policy::kInt8Scores) {
    CopyRows<kTileRows, Policy::kScoreRowBytes, /*kWhole=*/false>(
        __cvta_generic_to_shared(storage.q()), context.q,
        static_cast<std::uint32_t>(context.task->q.row_stride_bytes), 0,
        context.task->rows_valid - context.first_row, context.head_dim);
    storage.score_unit[threadIdx.x] = context.task->softmax_scale * kLog2E;
  }
  BlockSource<Policy> source;
  source.Read(context);
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (i < context.total) CopyBlock<false>(storage, source, i, ListedBlock(context, i));
    ptx::CommitCopies();
  }
  Progress at;
  if (context.total > 0) at.next_block = ListedBlock(context, kAhead);
  if constexpr (Policy::kInt8Scores) LoadTileQueries(storage);
  WarpTile<Policy> warp(storage);
  if constexpr (Policy::kInt8Scores) {
    __syncwarp();
    warp.LoadQueries();
  }

  // Mainloop.
  AddBlocks<false>(storage, warp, context.full, at);
  AddBlocks<true>(storage, warp, context.total, at);

  // Epilogue.
  __syncthreads();  // the stages are free
  warp.Write();
}

template <typename Policy>
__global__ void __launch_bounds__(kThreads, Policy::kMinBlocks) Attend(const WorkTable table) {
  extern __shared__ __align__(128) std::uint8_t smem[];
  auto& storage = *reinterpret_cast<SharedStorage<Policy>*>(smem);
  if (threadIdx.x == 0) storage.next_item = atomicAdd(table.next_item, 1U);
  __syncthreads();
  std::uint32_t index = storage.next_item;
  while (index < table.num_items) {
    __syncthreads();  // everybody has read next_item
    if (threadIdx.x == 0) {
      storage.context = MakeContext<Policy::kHeadDim>(table, index);
      storage.next_item = atomicAdd(table.next_item, 1U);
    }
    if (threadIdx.x < kBadKeySlots * 2) storage.bad_keys[threadIdx.x / 2][threadIdx.x % 2] = 0;
    __syncthreads();
    AttendItem(storage);
    ptx::WaitForCopies<0>();
    __syncthreads();  // the stages are free again
    index = storage.next_item;
  }
}

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_ATTEND_CUH_
