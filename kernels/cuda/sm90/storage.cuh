// What a thread block keeps in shared memory, and the barriers by which its warps hand it on.
#ifndef SAGE_KERNELS_CUDA_SM90_STORAGE_CUH_
#define SAGE_KERNELS_CUDA_SM90_STORAGE_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/bulk_copy.cuh"
#include "kernels/cuda/ptx/mbarrier.cuh"
#include "kernels/cuda/sm90/policy.cuh"
#include "kernels/cuda/tile_context.cuh"

namespace sage::cuda::sm90 {

inline constexpr int kContexts = 2;  // the item under way and the next
// Blocks that some rows of a tile see in part: those between the ends of its first row's keys and
// of its last row's, at either end one that both reach into.
inline constexpr int kMostPartial = kTileRows / kBlockKeys + 1;
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

template <typename Policy>
struct SharedStorage {
  // The consumers are a block ahead of what they release, and partial blocks are all copied before
  // the first is handed on.
  static_assert(Policy::kStages >= kMostPartial + 2);

  alignas(1024) std::uint8_t k[Policy::kStages][Policy::kKeyTileBytes];
  alignas(1024) std::uint8_t v[Policy::kStages][Policy::kValueTileBytes];
  // Operands of the scores, where they come from here.
  alignas(1024) std::uint8_t q[Policy::kSharedQueries ? kTileRows * Policy::kScoreRowBytes : 16];
  alignas(
      16) std::uint8_t q_rows[kTileRows * Policy::kQueryPitch];  // of the next item, as they are
  float q_scales[Policy::kInt8Scores ? kTileRows : 1];           // of rows that came quantised
  alignas(16) std::uint8_t out[kConsumerWarps][16 * Policy::kOutPitch];
  float k_scale[Policy::kStages];
  // Keys of a partial block whose row of V is not finite, a bit each.
  std::uint32_t bad_keys[Policy::kStages][2];
  TileContext contexts[kContexts];

  std::uint64_t context_full[kContexts];       // the scheduler has written it
  std::uint64_t context_empty[kContexts];      // all others are done with it
  std::uint64_t query_full;                    // q_rows and q_scales are there
  std::uint64_t query_empty;                   // every consumer warp has read them
  std::uint64_t stage_full[Policy::kStages];   // K, V, k_scale and bad_keys are there
  std::uint64_t stage_empty[Policy::kStages];  // every consumer warp has read them
  std::uint64_t landed[kMostPartial];          // a partial block is there for the producer itself

  // One thread does it, before any other uses them.
  __device__ __forceinline__ void InitBarriers() {
    for (int i = 0; i < kContexts; ++i) {
      ptx::InitBarrier(&context_full[i], 1);
      ptx::InitBarrier(&context_empty[i], 1 + kQueryWarps + kConsumerWarps);
    }
    ptx::InitBarrier(&query_full, kQueryWarps * 32);
    ptx::InitBarrier(&query_empty, kConsumerWarps);
    for (int i = 0; i < Policy::kStages; ++i) {
      ptx::InitBarrier(&stage_full[i], 1);
      ptx::InitBarrier(&stage_empty[i], kConsumerWarps);
    }
    for (std::uint64_t& barrier : landed) ptx::InitBarrier(&barrier, 1);
    ptx::FenceBarrierInit();
  }
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_STORAGE_CUH_
