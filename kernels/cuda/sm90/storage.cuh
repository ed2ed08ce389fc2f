// What a thread block keeps in shared memory, and the barriers by which its warps hand it on.
#ifndef SAGE_KERNELS_CUDA_SM90_STORAGE_CUH_
#define SAGE_KERNELS_CUDA_SM90_STORAGE_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/bulk_copy.cuh"
#include "kernels/cuda/ptx/mbarrier.cuh"
#include "kernels/cuda/sm90/context.cuh"
#include "kernels/cuda/sm90/policy.cuh"

namespace sage::cuda::sm90 {

inline constexpr int kContexts = 4;  // the item under way and those that follow
// Blocks that some rows of a tile see in part: those between the ends of its first row's keys and
// of its last row's, at either end one that both reach into. They come last.
inline constexpr int kMostPartial = kTileRows / kBlockKeys + 1;
template <typename Policy>
inline constexpr int kMostPartialTurns = (kMostPartial - 1) / Policy::kTurnBlocks + 1;
inline constexpr int kConsumerLanes = kConsumerWarps * 32;
inline constexpr int kNoMoreWork = -1;  // as the total of a context

// Where somebody is in a ring of kCount places. Fillers wait for the other parity of `empty`
// barriers: at first every place is free.
template <int kCount>
struct RingPlace {
  std::uint32_t index = 0;
  std::uint32_t parity = 0;

  __device__ __forceinline__ void Advance() {
    if constexpr (kCount == 1) {
      parity ^= 1;
      return;
    }
    const bool wraps = index == kCount - 1;
    parity ^= wraps ? 1 : 0;
    index = wraps ? 0 : index + 1;
  }
};

// What goes with a stage of K and V. Each is filled and emptied apart: K is needed a turn before V.
template <typename Policy>
struct StageState {
  std::uint64_t k_full;   // K and k_scale are there
  std::uint64_t k_empty;  // every lane of the consumers has read them
  std::uint64_t v_full;   // V and bad_keys are there
  std::uint64_t v_empty;  // every consumer warp has read them
  float k_scale[Policy::kTurnBlocks];
  // Keys of a partial block whose row of V is not finite, a bit each.
  std::uint32_t bad_keys[Policy::kTurnBlocks][2];
};

template <typename Policy>
struct SharedStorage {
  // Values of partial blocks are all copied before the first are handed on, and consumers hold
  // those of a turn more.
  static_assert(Policy::kStages >= kMostPartialTurns<Policy> + 1);

  alignas(1024) std::uint8_t k[Policy::kStages][Policy::kTurnBlocks][Policy::kKeyTileBytes];
  alignas(1024) std::uint8_t v[Policy::kStages][Policy::kTurnBlocks][Policy::kValueTileBytes];
  // Operands of the scores, where they come from here.
  alignas(1024) std::uint8_t q[Policy::kSharedQueries ? kTileRows * Policy::kScoreRowBytes : 16];
  alignas(
      16) std::uint8_t q_rows[kTileRows * Policy::kQueryPitch];  // of the next item, as they are
  float q_scales[Policy::kInt8Scores ? kTileRows : 1];           // of rows that came quantised
  alignas(16) std::uint8_t out[kConsumerWarps][16 * Policy::kOutPitch];
  StageState<Policy> stages[Policy::kStages];
  ItemContext contexts[kContexts];

  std::uint64_t context_full[kContexts];            // the scheduler has written it
  std::uint64_t context_empty[kContexts];           // every lane of all others is done with it
  std::uint64_t query_full;                         // q_rows and q_scales are there
  std::uint64_t query_empty;                        // every lane of the consumers has read them
  std::uint64_t landed[kMostPartialTurns<Policy>];  // blocks are there for the producer itself

  // One thread does it, before any other uses them.
  __device__ __forceinline__ void InitBarriers() {
    for (int i = 0; i < kContexts; ++i) {
      ptx::InitBarrier(&context_full[i], 32);
      ptx::InitBarrier(&context_empty[i], (1 + kQueryWarps) * 32 + kConsumerLanes);
    }
    ptx::InitBarrier(&query_full, kQueryWarps * 32);
    ptx::InitBarrier(&query_empty, kConsumerLanes);
    for (StageState<Policy>& stage : stages) {
      ptx::InitBarrier(&stage.k_full, 1);
      ptx::InitBarrier(&stage.k_empty, kConsumerLanes);
      ptx::InitBarrier(&stage.v_full, 1);
      ptx::InitBarrier(&stage.v_empty, kConsumerWarps);
    }
    for (std::uint64_t& barrier : landed) ptx::InitBarrier(&barrier, 1);
    ptx::FenceBarrierInit();
  }
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_STORAGE_CUH_
