// What a thread block keeps in shared memory.
#ifndef SAGE_KERNELS_CUDA_SM80_STORAGE_CUH_
#define SAGE_KERNELS_CUDA_SM80_STORAGE_CUH_

#include <cstdint>

#include "kernels/cuda/sm80/attend_shape.h"
#include "kernels/cuda/tile_context.cuh"

namespace sage::cuda::sm80 {

inline constexpr int kBadKeySlots = 4;

template <typename Policy>
struct SharedStorage {
  struct Stage {
    alignas(128) std::uint8_t k[kBlockKeys * Policy::kScoreRowBytes];
    alignas(128) std::uint8_t v[Policy::kValueTileBytes];
  };
  Stage stages[Policy::kStages];
  // Q of the whole tile. Where warps keep it in registers it only passes through the last stage, to
  // which no block comes before the mainloop.
  alignas(128) std::uint8_t own_q[Policy::kOwnQueryBytes];
  float score_unit[kTileRows];  // log2 units of a raw score, but for the scale of K
  float k_scale[Policy::kStages];
  // Keys of a partial block whose row of V is not finite, a bit each. Block i uses slot i % 4: it
  // is cleared a barrier before it is written again, whatever the stages.
  std::uint32_t bad_keys[kBadKeySlots][2];
  std::uint32_t next_item;
  TileContext context;

  __device__ __forceinline__ std::uint8_t* q() {
    static_assert(sizeof(Stage) >= kTileRows * Policy::kScoreRowBytes ||
                  !Policy::kQueriesInRegisters);
    return Policy::kQueriesInRegisters ? stages[Policy::kStages - 1].k : own_q;
  }
};

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_STORAGE_CUH_
