// Kernels of precision qk_int8_pv_fp16: INT8 scores of smoothed K, FP16 or BF16 probabilities.
#include "kernels/cuda/sm80/load.cuh"

namespace sage::cuda::sm80 {
namespace {

// Two thread blocks an SM: the sums of 32 rows take half of the registers, so Q stays in shared
// memory.
template <typename Element>
using Policy128 = KernelPolicy<Element, 128, true, /*stages=*/3, /*min blocks=*/2,
                               /*Q in registers=*/false>;
// Fits twice into the 100 KB of sm_86, sm_89 and sm_120.
template <typename Element>
using CompactPolicy128 = KernelPolicy<Element, 128, true, /*stages=*/2, /*min blocks=*/2,
                                      /*Q in registers=*/true>;
static_assert(2 * (sizeof(SharedStorage<CompactPolicy128<__half>>) + 1024) <= 100 * 1024);
template <typename Element>
using Policy64 = KernelPolicy<Element, 64, true, /*stages=*/2, /*min blocks=*/2,
                              /*Q in registers=*/true>;

template <typename Element>
cudaError_t LoadElement(const KernelChoice& choice, Kernel* kernel) {
  if (choice.padded_dim == 64) return Load<Policy64<Element>>(choice.num_sms, kernel);
  return LoadFitting<Policy128<Element>, CompactPolicy128<Element>>(choice, kernel);
}

}  // namespace

cudaError_t LoadQkInt8PvFp16(const KernelChoice& choice, Kernel* kernel) {
  return choice.type == ElementType::kFloat16 ? LoadElement<__half>(choice, kernel)
                                              : LoadElement<__nv_bfloat16>(choice, kernel);
}

}  // namespace sage::cuda::sm80
