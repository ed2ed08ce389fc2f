// Tuning of the wgmma kernels, and what follows from it.
#ifndef SAGE_KERNELS_CUDA_SM90_POLICY_CUH_
#define SAGE_KERNELS_CUDA_SM90_POLICY_CUH_

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device_task.h"
#include "kernels/cuda/softmax.cuh"

namespace sage::cuda::sm90 {

inline constexpr int kWarpgroupThreads = 128;
inline constexpr int kConsumers = 2;  // warpgroups that compute
inline constexpr int kConsumerWarps = kConsumers * kWarpgroupThreads / 32;
inline constexpr int kConsumerRows = kTileRows / kConsumers;

// What probabilities and V are multiplied as.
enum class Values { kElement, kE4m3 };

template <typename ElementT, int kHeadDimT, bool kInt8ScoresT, Values kValues, int kStagesT>
struct KernelPolicy {
  using Element = ElementT;
  static constexpr int kHeadDim = kHeadDimT;  // 64 or 128; smaller ones are padded with zeros
  static constexpr bool kInt8Scores = kInt8ScoresT;
  static constexpr bool kE4m3Values = kValues == Values::kE4m3;
  static constexpr int kStages = kStagesT;  // blocks of K and V in shared memory

  // Where the sums take most registers, Q stays in shared memory and there is room for the
  // probabilities of one block only.
  static constexpr bool kShortOfRegisters = kE4m3Values && kHeadDim == 128;

  // Warpgroups that feed the consumers. INT8 queries take two warps longer than a sparse item takes
  // the consumers; a second warpgroup leaves these 216 registers, too few where values are e4m3.
  static constexpr int kProducers = kInt8Scores && !kE4m3Values ? 2 : 1;
  static constexpr int kThreads = (kProducers + kConsumers) * kWarpgroupThreads;
  static constexpr int kQueryWarps = kProducers == 2 ? 6 : 2;
  // Registers of a thread, of 64 K for all.
  static constexpr int kConsumerRegisters = kProducers == 1 && kHeadDim == 128 ? 232 : 216;
  static constexpr int kProducerRegisters =
      kProducers == 2 ? 256 - kConsumerRegisters : 504 - kConsumers * kConsumerRegisters;
  // Turns of four rows that a warp quantises at once.
  static constexpr int kQueryTurns = kProducerRegisters > 40 ? 2 : 1;

  using Score = std::conditional_t<kInt8Scores, int, float>;
  using ScoreElement = std::conditional_t<kInt8Scores, std::int8_t, Element>;
  static constexpr int kScoreRowBytes = kHeadDim * (kInt8Scores ? 1 : 2);
  static constexpr int kScoreSteps = kScoreRowBytes / 32;
  static constexpr int kScores = kBlockKeys / 2;  // of a thread
  static constexpr int kKeyTileBytes = kBlockKeys * kScoreRowBytes;

  // V in shared memory. 16-bit: columns of 64 channels, rows of which are keys. e4m3: rows are
  // channels, the last eight of them ones, so that the product has the sums of p as well.
  static constexpr int kValueBytes = kBlockKeys * kHeadDim * (kE4m3Values ? 1 : 2);
  static constexpr int kValueTileBytes = kValueBytes + (kE4m3Values ? 8 * kBlockKeys : 0);
  static constexpr int kValueSteps = kE4m3Values ? 2 : 4;  // of a block
  static constexpr int kChannels = kHeadDim / 2;           // of a thread, of the sums
  static constexpr int kSums = kChannels + (kE4m3Values ? 4 : 0);

  // 16-bit probabilities are taken as they are to a maximum that may be behind the true one, until
  // what a thread has of a row's sum of a block passes this: each is far inside FP16 then. e4m3
  // ones are better off with the true maximum: the very largest is then 448, with no rounding
  // error.
  static constexpr float kSumLimit = 4096.0F;
  // Probabilities are 2^shift times their value.
  static constexpr float kProbabilityShift = kE4m3Values ? kLog2E4m3Max : 0.0F;
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_POLICY_CUH_
