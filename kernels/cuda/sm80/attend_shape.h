// The thread block of the mma.sync kernels.
#ifndef SAGE_KERNELS_CUDA_SM80_ATTEND_SHAPE_H_
#define SAGE_KERNELS_CUDA_SM80_ATTEND_SHAPE_H_

#include "kernels/cuda/device_task.h"

namespace sage::cuda::sm80 {

inline constexpr int kWarps = 4;
inline constexpr int kThreads = kWarps * 32;
static_assert(kThreads == kTileRows, "one thread a row where rows are set up");

inline constexpr int kWarpRows = kTileRows / kWarps;  // two fragments of 16 rows
inline constexpr int kFragmentRows = 16;
inline constexpr int kFragments = kWarpRows / kFragmentRows;

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_ATTEND_SHAPE_H_
