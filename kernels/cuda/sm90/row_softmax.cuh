// The online softmax of a warp's 16 rows.
#ifndef SAGE_KERNELS_CUDA_SM90_ROW_SOFTMAX_CUH_
#define SAGE_KERNELS_CUDA_SM90_ROW_SOFTMAX_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/sm90/policy.cuh"
#include "kernels/cuda/softmax.cuh"
#include "kernels/cuda/tile_context.cuh"

namespace sage::cuda::sm90 {

// An exponent of which the power of two is 0, in e4m3 with its shift as well.
inline constexpr float kHighestMaskedExponent = -256.0F;

// What a masked score becomes: less than any other.
template <typename Score>
struct MaskedScore;
template <>
struct MaskedScore<int> {
  static constexpr int kValue = -0x7fffffff - 1;
};
template <>
struct MaskedScore<float> {
  static constexpr float kValue = kNegativeInfinity;
};

// The largest of three.
__device__ __forceinline__ int Max3(int a, int b, int c) { return __vimax3_s32(a, b, c); }
__device__ __forceinline__ float Max3(float a, float b, float c) { return fmaxf(a, fmaxf(b, c)); }

// A thread has parts of two rows, `half` 0 and 1: rows t / 4 and t / 4 + 8 of the warp, and of each
// eight keys two. Rows are in units of log2.
template <typename Policy>
class RowSoftmax {
 public:
  using Score = typename Policy::Score;
  // Of a turn. Probabilities, as floats, take the places of their scores.
  using Scores = Score[Policy::kTurnBlocks][Policy::kBlockScores];
  using Units = float[Policy::kTurnBlocks][2];  // of the scores of a block and a row
  using Operands = std::uint32_t[Policy::kValueSteps][4];

  __device__ __forceinline__ void Clear() {
    limit_ = kNeverBelow;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      max_[half] = kNegativeInfinity;
      sum_[half] = 0.0F;
    }
  }

  // The common case, for 16-bit values: every row sees all keys of the turn, and probabilities stay
  // in range with the maximum as it is, which may be behind the true one. False where those of some
  // row of the warp do not. Else Add() these sums. The scores are lost.
  __device__ __forceinline__ bool TakeBelowLimit(const Units& units, Scores& scores,
                                                 float (&sums)[2]) const {
    sums[0] = sums[1] = 0.0F;
    Take<false>(units, scores, sums);
    return !__any_sync(0xffffffffU, fmaxf(sums[0], sums[1]) > limit_);
  }
  __device__ __forceinline__ void Add(const float (&sums)[2]) {
    sum_[0] += sums[0];
    sum_[1] += sums[1];
  }

  // The general case, first half: brings the maxima up to these scores, some of which are masked if
  // `masked`. `factor` is what sums so far are to be multiplied by. Whether the probabilities are
  // to be taken with care.
  __device__ __forceinline__ bool Raise(const Units& units, const Scores& scores, bool masked,
                                        float (&factor)[2]) {
    float turn_max[2] = {kNegativeInfinity, kNegativeInfinity};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int block = 0; block < Policy::kTurnBlocks; ++block) {
        const Score raw = ThreadMax(scores[block], half);
        const float scaled = __fmul_rn(static_cast<float>(raw), units[block][half]);
        if (raw != MaskedScore<Score>::kValue) turn_max[half] = fmaxf(turn_max[half], scaled);
      }
    }
    // Both at once: exchanges take a while.
#pragma unroll
    for (int lane = 1; lane < 4; lane *= 2) {
      const float others[2] = {__shfl_xor_sync(0xffffffffU, turn_max[0], lane),
                               __shfl_xor_sync(0xffffffffU, turn_max[1], lane)};
      turn_max[0] = fmaxf(turn_max[0], others[0]);
      turn_max[1] = fmaxf(turn_max[1], others[1]);
    }
    float largest = 0.0F;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float next = fmaxf(max_[half], turn_max[half]);
      // A row that has seen nothing yet keeps its zeros: -inf minus -inf is no number.
      factor[half] = next == kNegativeInfinity ? 1.0F : ptx::Exp2(max_[half] - next);
      max_[half] = next;
      sum_[half] *= factor[half];
      largest = fmaxf(largest, fabsf(next));
    }
    const bool huge = __any_sync(0xffffffffU, largest > kLargestFoldedMax);
    limit_ = huge ? kNeverBelow : Policy::kSumLimit;
    return huge || (masked && MaskedMayCount(units));
  }
  // Second half; with kMayBeShort where the first block of a `short_turn` does not exist. Packs the
  // probabilities, too, where nobody needs `p` any longer.
  template <bool kPacks, bool kMayBeShort>
  __device__ __forceinline__ void TakeRaised(const Units& units, bool careful, bool short_turn,
                                             Scores& scores, Operands& p) {
    if (__builtin_expect(careful, 0)) {
      Take<true>(units, scores, sum_);
      if constexpr (kPacks) Pack(scores, p);
    } else if (kMayBeShort && short_turn) {
      Take<false, 1>(units, scores, sum_);
      if constexpr (kPacks) Pack(scores, p);
    } else {
      Take<false>(units, scores, sum_);
      if constexpr (kPacks) Pack(scores, p);
    }
  }

  // Probabilities as operands of the products with V.
  static __device__ __forceinline__ void Pack(const Scores& scores, Operands& p) {
#pragma unroll
    for (int step = 0; step < Policy::kValueSteps; ++step) {
      const Score(&block)[Policy::kBlockScores] = scores[step / Policy::kBlockSteps];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if constexpr (Policy::kE4m3Values) {
          const Score* const x = &block[16 * (step % Policy::kBlockSteps) + e / 2 * 8 + e % 2 * 2];
          p[step][e] = ptx::PackE4m3(Probability(x[0]), Probability(x[1]), Probability(x[4]),
                                     Probability(x[5]));
        } else {
          const Score* const x = &block[8 * (step % Policy::kBlockSteps) + 2 * e];
          p[step][e] = ptx::Pack<typename Policy::Element>(Probability(x[0]), Probability(x[1]));
        }
      }
    }
  }

  __device__ __forceinline__ float max(int half) const { return max_[half]; }
  // What this thread has of a row's sum; 0 for e4m3 values, whose products have it.
  __device__ __forceinline__ float& sum(int half) { return sum_[half]; }

 private:
  static constexpr float kNeverBelow = -1.0F;  // sums are not negative

  static __device__ __forceinline__ float Probability(int bits) { return __int_as_float(bits); }
  static __device__ __forceinline__ float Probability(float x) { return x; }
  static __device__ __forceinline__ void Put(int& place, float x) { place = __float_as_int(x); }
  static __device__ __forceinline__ void Put(float& place, float x) { place = x; }

  // Largest of the scores that a thread has of a row: pairs of every four.
  static __device__ __forceinline__ Score ThreadMax(const Score (&scores)[Policy::kBlockScores],
                                                    int half) {
    Score result = ::max(scores[2 * half], scores[2 * half + 1]);
#pragma unroll
    for (int i = 4; i < Policy::kBlockScores; i += 4) {
      result = Max3(result, scores[i + 2 * half], scores[i + 2 * half + 1]);
    }
    return result;
  }

  // Whether the power of two of some row's masked score may be more than 0: its maximum may come
  // from another block, whose scale was larger. True for NaN as well.
  __device__ __forceinline__ bool MaskedMayCount(const Units& units) const {
    bool may = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float maximum = max_[half] == kNegativeInfinity ? 0.0F : max_[half];
#pragma unroll
      for (int block = 0; block < Policy::kTurnBlocks; ++block) {
        const float exponent =
            fmaf(static_cast<float>(MaskedScore<Score>::kValue), units[block][half], -maximum);
        may |= !(exponent < kHighestMaskedExponent);
      }
    }
    return __any_sync(0xffffffffU, may);
  }

  // kCareful survives masked scores and very large ones. Blocks before kFirst count for nothing.
  template <bool kCareful, int kFirst = 0>
  __device__ __forceinline__ void Take(const Units& units, Scores& scores, float (&sums)[2]) const {
    float offset[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float maximum = max_[half] == kNegativeInfinity ? 0.0F : max_[half];
      offset[half] = kCareful ? maximum : Policy::kProbabilityShift - maximum;
    }
#pragma unroll
    for (int block = 0; block < kFirst; ++block) {
#pragma unroll
      for (Score& score : scores[block]) Put(score, 0.0F);
    }
#pragma unroll
    for (int block = kFirst; block < Policy::kTurnBlocks; ++block) {
#pragma unroll
      for (int i = 0; i < Policy::kBlockScores; ++i) {
        const int half = i / 2 % 2;
        const Score score = scores[block][i];
        const auto value = static_cast<float>(score);
        float exponent = fmaf(value, units[block][half], offset[half]);
        if constexpr (kCareful) {
          // Rounded as the maximum was, so that its own element gets exactly 0.
          const float below = __fmul_rn(value, units[block][half]) - offset[half];
          // The comparison keeps NaN; fminf would not.
          exponent = (below > 0.0F ? 0.0F : below) + Policy::kProbabilityShift;
          if (score == MaskedScore<Score>::kValue) exponent = kNegativeInfinity;
        }
        const float probability = ptx::Exp2(exponent);
        if constexpr (!Policy::kE4m3Values) sums[half] += probability;
        Put(scores[block][i], probability);
      }
    }
  }

  // Of what a thread has of a row's sum of a turn; kNeverBelow where some row of the warp has a
  // maximum too large for shortcuts, or none yet.
  float limit_;
  float max_[2];
  float sum_[2];
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_ROW_SOFTMAX_CUH_
