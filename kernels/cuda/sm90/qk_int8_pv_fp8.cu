// Kernels of precision qk_int8_pv_fp8: INT8 scores of smoothed K, e4m3 probabilities and V
// (SageAttention2, Zhang et al., 2024).
#include "kernels/cuda/sm90/load.cuh"

namespace sage::cuda::sm90 {
namespace {

template <typename Element, int kHeadDim>
using Policy = KernelPolicy<Element, kHeadDim, /*int8 scores=*/true, Values::kE4m3,
                            /*stages=*/(kHeadDim == 64 ? 7 : 4)>;

}  // namespace

cudaError_t LoadQkInt8PvFp8(const KernelChoice& choice, Kernel* kernel) {
  return LoadAny<Policy>(choice, kernel);
}

}  // namespace sage::cuda::sm90
