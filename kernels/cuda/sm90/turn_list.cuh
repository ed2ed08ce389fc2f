// Which entries of a list of blocks each turn takes.
#ifndef SAGE_KERNELS_CUDA_SM90_TURN_LIST_CUH_
#define SAGE_KERNELS_CUDA_SM90_TURN_LIST_CUH_

namespace sage::cuda::sm90 {

// Turns take kTurnBlocks entries each. Where these do not come out even it is the first turn that
// has places without one: partial entries, which come last, are then in as few turns as can be.
template <typename Policy>
struct TurnList {
  int count;   // of turns
  int full;    // of them: the first ones, in which every row of the tile sees every key
  int absent;  // places of the first turn without an entry

  __device__ __forceinline__ TurnList(int full_entries, int entries)
      : count((entries + Policy::kTurnBlocks - 1) / Policy::kTurnBlocks),
        full(0),
        absent(count * Policy::kTurnBlocks - entries) {
    full = (full_entries + absent) / Policy::kTurnBlocks;
  }
  // Of a place of a turn; negative where it has none.
  __device__ __forceinline__ int Entry(int turn, int place) const {
    return turn * Policy::kTurnBlocks + place - absent;
  }
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_TURN_LIST_CUH_
