// Non-finite values of V in blocks that not every row of the tile sees whole.
#ifndef SAGE_KERNELS_CUDA_BAD_VALUES_CUH_
#define SAGE_KERNELS_CUDA_BAD_VALUES_CUH_

#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device_task.h"
#include "kernels/cuda/e4m3_order.cuh"

namespace sage::cuda {

// Marks key `key` of a block, a bit each.
__device__ __forceinline__ void MarkKey(std::uint32_t* bad_keys, std::uint32_t key) {
  atomicOr(&bad_keys[key / 32], 1U << (key % 32));
}

inline constexpr int kNoBadKey = 0x7fffffff;

// The first key that is marked, or kNoBadKey.
__device__ __forceinline__ int FirstBadKey(const std::uint32_t* bad_keys) {
  if (bad_keys[0] != 0) return __ffs(static_cast<int>(bad_keys[0])) - 1;
  return bad_keys[1] != 0 ? 31 + __ffs(static_cast<int>(bad_keys[1])) : kNoBadKey;
}

// Eight values of one key, at `words`: where one of them is not finite all become 0 and the key is
// marked. p = 0 of a row that cannot see the key would turn them into NaN.
template <typename Element>
__device__ __forceinline__ void ContainBadElements(uint4* words, std::uint32_t key,
                                                   std::uint32_t* bad_keys) {
  constexpr std::uint32_t kExponent = std::is_same_v<Element, __half> ? 0x7c00U : 0x7f80U;
  const std::uint32_t pairs[4] = {words->x, words->y, words->z, words->w};
  bool bad = false;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    bad |= (pairs[w] & kExponent) == kExponent;
    bad |= (pairs[w] >> 16 & kExponent) == kExponent;
  }
  if (!bad) return;
  *words = make_uint4(0, 0, 0, 0);
  MarkKey(bad_keys, key);
}

// The same for e4m3 values of one channel of keys [first_key, first_key + 16).
__device__ __forceinline__ void ContainBadE4m3(std::uint32_t* words, std::uint32_t first_key,
                                               std::uint32_t* bad_keys) {
  for (int w = 0; w < 4; ++w) {
    const std::uint32_t bad = __vcmpeq4(words[w] & 0x7f7f7f7fU, 0x7f7f7f7fU);
    if (bad == 0) continue;
    words[w] &= ~bad;
    for (int e = 0; e < 4; ++e) {
      if ((bad >> (8 * e) & 1) != 0) MarkKey(bad_keys, first_key + KeyOfE4m3Slot(w * 4 + e));
    }
  }
}

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_BAD_VALUES_CUH_
