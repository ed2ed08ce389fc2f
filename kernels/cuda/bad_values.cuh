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

// Not zero where an element of a word, two 16-bit ones or four of e4m3, is not finite.
template <typename Element>
__device__ __forceinline__ std::uint32_t BadElements(std::uint32_t word) {
  // Without their signs such elements are the largest: adding this carries into the sign.
  constexpr bool kHalf = std::is_same_v<Element, __half>;
  constexpr std::uint32_t kCarry = kHalf ? 0x04000400U : 0x00800080U;
  return ((word & 0x7fff7fffU) + kCarry) & 0x80008000U;
}
__device__ __forceinline__ std::uint32_t BadE4m3(std::uint32_t word) {
  return ((word & 0x7f7f7f7fU) + 0x01010101U) & 0x80808080U;
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
  if ((BadElements<Element>(words->x) | BadElements<Element>(words->y) |
       BadElements<Element>(words->z) | BadElements<Element>(words->w)) == 0) {
    return;
  }
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
