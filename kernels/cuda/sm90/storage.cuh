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
inline constexpr int kQueryWarps = 2;
inline constexpr int kNoMoreWork = -1;  // as the total of a context

// Where somebody is in a ring of kCount places. Fillers wait for the other parity of `empty`
// barriers: at first every place is free.
template <int kCount>
struct RingPlace {
  int index = 0;
  std::uint32_t parity = 0;

  __device__ __forceinline__ void Advance() {
    if (++index == kCount) {
      index = 0;
      parity ^= 1;
    }
  }
};

template <typename Policy>
struct SharedStorage {
  alignas(1024) std::uint8_t k[Policy::kStages][Policy::kKeyTileBytes];
  alignas(1024) std::uint8_t v[Policy::kStages][Policy::kValueTileBytes];
  alignas(1024) std::uint8_t q[kTileRows * Policy::kScoreRowBytes];
  float score_unit[kTileRows];  // log2 units of a raw score, but for the scale of K
  float k_scale[Policy::kStages];
  // Keys of a partial block whose row of V is not finite, a bit each.
  std::uint32_t bad_keys[Policy::kStages][2];
  TileContext contexts[kContexts];

  std::uint64_t context_full[kContexts];   // the scheduler has written it
  std::uint64_t context_empty[kContexts];  // all others are done with it
  std::uint64_t query_full;
  std::uint64_t query_empty;
  std::uint64_t stage_full[Policy::kStages];   // K, V, k_scale and bad_keys are there
  std::uint64_t stage_empty[Policy::kStages];  // every consumer warp has read them
  std::uint64_t landed;                        // a partial block is there for the producer itself

  // One thread does it, before any other uses them.
  __device__ __forceinline__ void InitBarriers() {
    for (int i = 0; i < kContexts; ++i) {
      ptx::InitBarrier(&context_full[i], 1);
      ptx::InitBarrier(&context_empty[i], 1 + kQueryWarps + kConsumerWarps);
    }
    ptx::InitBarrier(&query_full, kQueryWarps);
    ptx::InitBarrier(&query_empty, kConsumerWarps);
    for (int i = 0; i < Policy::kStages; ++i) {
      ptx::InitBarrier(&stage_full[i], 1);
      ptx::InitBarrier(&stage_empty[i], kConsumerWarps);
    }
    ptx::InitBarrier(&landed, 1);
    ptx::FenceBarrierInit();
  }
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_STORAGE_CUH_
