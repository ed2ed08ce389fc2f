// Kernels of precision fp16: FP16 or BF16 products throughout.
#include "kernels/cuda/sm80/load.cuh"

namespace sage::cuda::sm80 {
namespace {

template <typename Element>
using Policy128 = KernelPolicy<Element, 128, false, /*stages=*/2, /*min blocks=*/2,
                               /*Q in registers=*/false>;
template <typename Element>
using Policy64 = KernelPolicy<Element, 64, false, /*stages=*/2, /*min blocks=*/2,
                              /*Q in registers=*/false>;

template <typename Element>
cudaError_t LoadElement(const KernelChoice& choice, Kernel* kernel) {
  return choice.padded_dim == 64 ? Load<Policy64<Element>>(choice.num_sms, kernel)
                                 : Load<Policy128<Element>>(choice.num_sms, kernel);
}

}  // namespace

cudaError_t LoadFp16(const KernelChoice& choice, Kernel* kernel) {
  return choice.type == ElementType::kFloat16 ? LoadElement<__half>(choice, kernel)
                                              : LoadElement<__nv_bfloat16>(choice, kernel);
}

}  // namespace sage::cuda::sm80
