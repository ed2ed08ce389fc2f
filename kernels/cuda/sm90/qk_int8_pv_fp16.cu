// Kernels of precision qk_int8_pv_fp16: INT8 scores of smoothed K, FP16 or BF16 probabilities.
#include "kernels/cuda/sm90/load.cuh"

namespace sage::cuda::sm90 {
namespace {

template <typename Element, int kHeadDim>
using Policy = KernelPolicy<Element, kHeadDim, /*int8 scores=*/true, Values::kElement,
                            /*stages=*/(kHeadDim == 64 ? 5 : 3)>;

}  // namespace

cudaError_t LoadQkInt8PvFp16(const KernelChoice& choice, Kernel* kernel) {
  return LoadAny<Policy>(choice, kernel);
}

}  // namespace sage::cuda::sm90
