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
inline constexpr int kQueryWarps = 2;  // that copy queries
inline constexpr int kQueryRows = kTileRows / kQueryWarps;

// What probabilities and V are multiplied as.
enum class Values { kElement, kE4m3 };

template <typename ElementT, int kHeadDimT, bool kInt8ScoresT, Values kValues, int kStagesT>
struct KernelPolicy {
  using Element = ElementT;
  static constexpr int kHeadDim = kHeadDimT;  // 64 or 128; smaller ones are padded with zeros
  static constexpr bool kInt8Scores = kInt8ScoresT;
  static constexpr bool kE4m3Values = kValues == Values::kE4m3;
  // Two thread blocks an SM where registers suffice: a scheduler's four warps hide each other's
  // latencies, so that each does one thing after the other. Else it has two warps, and each has
  // products under way under its softmax.
  static constexpr bool kInTurn = kInt8Scores && kHeadDim == 64;
  static constexpr int kBlocksPerSm = kInTurn ? 2 : 1;
  // Blocks of K and V that a turn takes: two share what a turn costs, where registers and shared
  // memory suffice.
  static constexpr int kTurnBlocks = kInTurn || (!kInt8Scores && kHeadDim == 128) ? 1 : 2;
  static constexpr int kStages = kStagesT;  // turns whose blocks are in shared memory
  // Q is read from shared memory by every product. Else registers have it.
  static constexpr bool kSharedQueries = kInt8Scores && (kHeadDim == 64 || kE4m3Values);

  static constexpr int kThreads = (1 + kConsumers) * kWarpgroupThreads;
  // Registers of a thread, at its start and then by role. More in all would be waited for for ever.
  static constexpr int kFirstRegisters = 64 * 1024 / (kThreads * kBlocksPerSm) / 8 * 8;
  static constexpr int kConsumerRegisters = kInTurn ? 104 : kE4m3Values ? 232 : 240;
  static constexpr int kProducerRegisters = kInTurn ? 32 : kE4m3Values ? 40 : 24;
  static_assert(kConsumers * kConsumerRegisters + kProducerRegisters <=
                (kConsumers + 1) * kFirstRegisters);

  using Score = std::conditional_t<kInt8Scores, int, float>;
  using ScoreElement = std::conditional_t<kInt8Scores, std::int8_t, Element>;
  static constexpr int kScoreRowBytes = kHeadDim * (kInt8Scores ? 1 : 2);
  static constexpr int kScoreSteps = kScoreRowBytes / 32;
  static constexpr int kBlockScores = kBlockKeys / 2;  // of a thread
  static constexpr int kKeyTileBytes = kBlockKeys * kScoreRowBytes;

  // Rows of queries as they come, and of a piece of the output. Their distances keep banks apart.
  static constexpr int kQueryPitch = kHeadDim * 2 + 16;
  static constexpr int kOutRowBytes = kInt8Scores ? kHeadDim * 2 : 128;
  static constexpr int kOutPitch = kOutRowBytes + 16;

  // V in shared memory. 16-bit: columns of 64 channels, rows of which are keys. e4m3: rows are
  // channels, the last eight of them ones, so that the product has the sums of p as well.
  static constexpr int kValueBytes = kBlockKeys * kHeadDim * (kE4m3Values ? 1 : 2);
  static constexpr int kValueTileBytes = kValueBytes + (kE4m3Values ? 8 * kBlockKeys : 0);
  static constexpr int kBlockSteps = kE4m3Values ? 2 : 4;  // of products with V
  static constexpr int kValueSteps = kTurnBlocks * kBlockSteps;
  static constexpr int kChannels = kHeadDim / 2;  // of a thread, of the sums
  static constexpr int kSums = kChannels + (kE4m3Values ? 4 : 0);
  // e4m3 products are made apart from the sums; for want of registers in two parts, the first of
  // which has 64 channels.
  static constexpr int kValueParts = kE4m3Values && kHeadDim == 128 ? 2 : 1;
  static constexpr int kFirstPart = 32;  // of a thread, of the sums
  static constexpr int kLastPart = kValueParts == 2 ? kSums - kFirstPart : kSums;

  // 16-bit probabilities are taken as they are to a maximum that may be behind the true one, until
  // what a thread has of a row's sum of a turn passes this: each is far inside FP16 then. e4m3
  // ones are better off with the true maximum: the very largest is then 448, with no rounding
  // error.
  static constexpr float kSumLimit = 4096.0F;
  // Probabilities are 2^shift times their value.
  static constexpr float kProbabilityShift = kE4m3Values ? kLog2E4m3Max : 0.0F;
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_POLICY_CUH_
