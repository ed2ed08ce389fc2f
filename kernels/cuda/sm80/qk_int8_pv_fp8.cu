// Kernels of precision qk_int8_pv_fp8: INT8 scores of smoothed K, e4m3 probabilities and V
// (SageAttention2, Zhang et al., 2024). The tensor cores of sm_89 and later have e4m3.
#include "kernels/cuda/sm80/load.cuh"

namespace sage::cuda::sm80 {
namespace {

template <typename Element>
using Policy128 = KernelPolicy<Element, 128, true, /*stages=*/3, /*min blocks=*/2,
                               /*Q in registers=*/false, ValueProduct::kE4m3Float32Sum>;
template <typename Element>
using Policy64 = KernelPolicy<Element, 64, true, /*stages=*/3, /*min blocks=*/2,
                              /*Q in registers=*/true, ValueProduct::kE4m3Float32Sum>;
// For GeForce: FP16 sums, and twice into 100 KB of shared memory.
template <typename Element>
using GeForcePolicy128 = KernelPolicy<Element, 128, true, /*stages=*/2, /*min blocks=*/2,
                                      /*Q in registers=*/false, ValueProduct::kE4m3Float16Sum>;
template <typename Element>
using GeForcePolicy64 = KernelPolicy<Element, 64, true, /*stages=*/3, /*min blocks=*/2,
                                     /*Q in registers=*/true, ValueProduct::kE4m3Float16Sum>;
static_assert(2 * (sizeof(SharedStorage<GeForcePolicy128<__half>>) + 1024) <= 100 * 1024);
static_assert(2 * (sizeof(SharedStorage<GeForcePolicy64<__half>>) + 1024) <= 100 * 1024);

// sm_89 and sm_12x multiply e4m3 at full rate with FP16 sums only.
bool WantsFloat16Sums(const KernelChoice& choice) {
  return choice.compact || choice.compute_capability == 89 || choice.compute_capability / 10 == 12;
}

template <typename Element>
cudaError_t LoadElement(const KernelChoice& choice, Kernel* kernel) {
  // 448 (p) times this times 64 keys stays below FP16's 65504.
  constexpr float kFloat16SumRange = 2.25F;
  constexpr float kE4m3Range = 448.0F;
  if (WantsFloat16Sums(choice)) {
    kernel->value_range = kFloat16SumRange;
    return choice.padded_dim == 64 ? Load<GeForcePolicy64<Element>>(choice.num_sms, kernel)
                                   : Load<GeForcePolicy128<Element>>(choice.num_sms, kernel);
  }
  kernel->value_range = kE4m3Range;
  return choice.padded_dim == 64 ? Load<Policy64<Element>>(choice.num_sms, kernel)
                                 : Load<Policy128<Element>>(choice.num_sms, kernel);
}

}  // namespace

cudaError_t LoadQkInt8PvFp8(const KernelChoice& choice, Kernel* kernel) {
  const cudaError_t error = choice.type == ElementType::kFloat16
                                ? LoadElement<__half>(choice, kernel)
                                : LoadElement<__nv_bfloat16>(choice, kernel);
  if (error != cudaSuccess) return error;
  // Code for older devices, or translated from theirs, has no e4m3.
  cudaFuncAttributes attributes;
  const cudaError_t read = cudaFuncGetAttributes(&attributes, kernel->function);
  if (read != cudaSuccess) return read;
  return attributes.ptxVersion < kFirstE4m3 ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

}  // namespace sage::cuda::sm80
