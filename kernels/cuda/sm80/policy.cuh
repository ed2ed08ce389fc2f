// Tuning of the mma.sync kernels, and what follows from it.
#ifndef SAGE_KERNELS_CUDA_SM80_POLICY_CUH_
#define SAGE_KERNELS_CUDA_SM80_POLICY_CUH_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/sm80/attend_shape.h"
#include "kernels/cuda/softmax.cuh"

namespace sage::cuda::sm80 {

// INT8 sums start at the bits of 12582912.0f = 1.5 * 2^23, so that the bits of a sum s read as the
// float 12582912 + s: exact for |s| < 2^22, and 127 * 127 * 128 is less.
inline constexpr int kScoreBiasBits = 0x4B400000;
inline constexpr float kScoreBias = 12582912.0F;

// What probabilities and V are multiplied as, and how their products are summed.
enum class ValueProduct {
  kElement,         // the elements' type, FP32 sums
  kE4m3Float32Sum,  // e4m3, FP32 sums of a step
  kE4m3Float16Sum,  // e4m3, FP16 sums of a step: twice as fast on GeForce; V within +-2.25
};

// Tuning of a kernel, and what follows from it.
template <typename ElementT, int kHeadDimT, bool kInt8ScoresT, int kStagesT, int kMinBlocksT,
          bool kQueriesInRegistersT, ValueProduct kValueProduct = ValueProduct::kElement>
struct KernelPolicy {
  using Element = ElementT;
  using Score = std::conditional_t<kInt8ScoresT, int, float>;
  static constexpr int kHeadDim = kHeadDimT;  // 64 or 128; smaller ones are padded with zeros
  static constexpr bool kInt8Scores = kInt8ScoresT;
  static constexpr int kScoreRowBytes = kHeadDim * (kInt8Scores ? 1 : 2);
  static constexpr float kBias = kInt8Scores ? kScoreBias : 0.0F;
  static constexpr int kStages = kStagesT;
  static constexpr int kMinBlocks = kMinBlocksT;  // thread blocks an SM, which bounds registers
  static constexpr bool kQueriesInRegisters = kQueriesInRegistersT;
  static_assert(kInt8Scores || !kQueriesInRegisters, "16-bit Q would not fit");
  static constexpr bool kShortOfRegisters = kHeadDim == 128 && kQueriesInRegisters;
  // Keys a step of the softmax.
  static constexpr int kStepKeys = kShortOfRegisters ? 32 : 64;
  static constexpr int kOwnQueryBytes = kQueriesInRegisters ? 1 : kTileRows * kScoreRowBytes;

  // A block of V: rows are keys, or where it is e4m3 channels.
  static constexpr bool kE4m3Values = kValueProduct != ValueProduct::kElement;
  static constexpr int kValueRowBytes = kE4m3Values ? kBlockKeys : kHeadDim * 2;
  static constexpr int kValueTileBytes = kBlockKeys * kHeadDim * (kE4m3Values ? 1 : 2);
  using ValueSums = std::conditional_t<kValueProduct == ValueProduct::kE4m3Float16Sum,
                                       std::uint32_t[2], float[4]>;

  // The running maximum may lag behind the true one by this much (log2) before sums are rescaled:
  // probabilities stay below 2^8, far inside FP16. In e4m3 the largest probabilities are better off
  // without a lag: the very largest is then 448, with no rounding error.
  static constexpr float kMaxLag = kE4m3Values ? 0.0F : 8.0F;
  // Probabilities are 2^shift times their value.
  static constexpr float kProbabilityShift = kE4m3Values ? kLog2E4m3Max - kMaxLag : 0.0F;
};

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_POLICY_CUH_
