// The order of keys in prepared e4m3 values.
//
// The tensor cores take four keys in a row from each thread, as the bytes of a register. A thread
// of the INT8 scores holds two keys of each eight. So a channel's 16 keys lie in the order in which
// the threads have them, and scores become probabilities without leaving their thread:
//
//   slot   0 1 2 3   4 5  6  7   8 9 10 11  12 13 14 15
//   key    0 1 8 9   2 3 10 11   4 5 12 13   6  7 14 15
#ifndef SAGE_KERNELS_CUDA_E4M3_ORDER_CUH_
#define SAGE_KERNELS_CUDA_E4M3_ORDER_CUH_

#include <cstdint>

namespace sage::cuda {

// Key, within its 16, that lies in `slot`.
__device__ __forceinline__ std::uint32_t KeyOfE4m3Slot(std::uint32_t slot) {
  const std::uint32_t thread = slot / 4;
  const std::uint32_t byte = slot % 4;
  return 2 * thread + byte % 2 + byte / 2 * 8;
}

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_E4M3_ORDER_CUH_
