// Kernels of precision fp16: FP16 or BF16 products throughout.
#include "kernels/cuda/sm90/load.cuh"

namespace sage::cuda::sm90 {
namespace {

template <typename Element, int kHeadDim>
using Policy = KernelPolicy<Element, kHeadDim, /*int8 scores=*/false, Values::kElement,
                            /*stages=*/(kHeadDim == 64 ? 4 : 5)>;

}  // namespace

cudaError_t LoadFp16(const KernelChoice& choice, Kernel* kernel) {
  return LoadAny<Policy>(choice, kernel);
}

}  // namespace sage::cuda::sm90
