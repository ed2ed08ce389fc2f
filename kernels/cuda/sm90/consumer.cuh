// What one warpgroup computes of a tile, 64 rows: scores, online softmax, sums.
//
// Products are asynchronous. Where a thread block has an SM for itself, the tensor cores have work
// while the probabilities of a block are computed. Turn i:
//
//   tensor cores     scores q k(i+1), sums p(i-1) v(i-1)
//   this warpgroup   p(i) from the scores q k(i)
//
// Where two share it, each of their warps does one thing after the other.
#ifndef SAGE_KERNELS_CUDA_SM90_CONSUMER_CUH_
#define SAGE_KERNELS_CUDA_SM90_CONSUMER_CUH_

#include <cstdint>

#include "kernels/cuda/bad_values.cuh"
#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/ptx/wgmma.cuh"
#include "kernels/cuda/sm90/output.cuh"
#include "kernels/cuda/sm90/queries.cuh"
#include "kernels/cuda/sm90/storage.cuh"
#include "kernels/cuda/softmax.cuh"

namespace sage::cuda::sm90 {

// The same in every lane, as the compiler then knows: addresses that follow from it need no vector
// registers.
__device__ __forceinline__ std::uint32_t Uniform(std::uint32_t x) {
  return __reduce_or_sync(0xffffffffU, x);
}

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

// Largest of the scores that a thread has of a row: pairs of every four.
template <int kCount>
__device__ __forceinline__ int ThreadMax(const int (&scores)[kCount], int half) {
  int result = max(scores[2 * half], scores[2 * half + 1]);
#pragma unroll
  for (int i = 4; i < kCount; i += 4) {
    result = __vimax3_s32(result, scores[i + 2 * half], scores[i + 2 * half + 1]);
  }
  return result;
}
template <int kCount>
__device__ __forceinline__ float ThreadMax(const float (&scores)[kCount], int half) {
  float result = fmaxf(scores[2 * half], scores[2 * half + 1]);
#pragma unroll
  for (int i = 4; i < kCount; i += 4) {
    result = fmaxf(result, fmaxf(scores[i + 2 * half], scores[i + 2 * half + 1]));
  }
  return result;
}

template <typename Policy>
class ConsumerTile {
 public:
  using Scores = typename Policy::Score[Policy::kScores];
  using Probabilities = std::uint32_t[Policy::kValueSteps][4];
  using Stage = RingPlace<Policy::kStages>;

  __device__ __forceinline__ ConsumerTile(SharedStorage<Policy>& storage,
                                          const TileContext& context, int warpgroup)
      : storage_(storage),
        context_(context),
        warpgroup_(warpgroup),
        first_row_(warpgroup * kConsumerRows + ptx::ThreadIndex() % 128 / 32 * 16) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      max_[half] = kNegativeInfinity;
      sum_[half] = 0.0F;
    }
#pragma unroll
    for (int i = 0; i < Policy::kSums; ++i) out_[i] = 0.0F;
  }

  __device__ __forceinline__ void TakeQueries() { queries_.Take(storage_, context_, warpgroup_); }

  // All listed blocks, at least one, from `place` on. Afterwards the sums are whole.
  __device__ __forceinline__ void AddBlocks(Stage& place) {
    total_ = static_cast<int>(Uniform(context_.total));
    full_ = static_cast<int>(Uniform(context_.full));
    Stage stage = {Uniform(place.index), Uniform(place.parity)};
    if constexpr (Policy::kInTurn) {
      AddInTurn(stage);
    } else {
      AddAhead(stage);
    }
    place = stage;
  }
  // Divides by the sums and writes the rows, and their lse.
  __device__ __forceinline__ void Write() {
    const OutputRows<Policy> rows(storage_, context_, first_row_);
    const float inverse[2] = {FinishRow(0), FinishRow(1)};
    rows.Write(out_, inverse);
  }

 private:
  // The scores of each block are computed under the softmax of the one before, and so are the sums.
  __device__ __forceinline__ void AddAhead(Stage& stage) {
    Scores even;
    Scores odd;
    Probabilities p[Policy::kShortOfRegisters ? 1 : 2];
    Probabilities& even_p = p[0];
    Probabilities& odd_p = p[Policy::kShortOfRegisters ? 0 : 1];
    MultiplyKeys(stage, /*exists=*/true, even);
    ptx::WgmmaCommit();
    LookAhead(stage.index, After(stage));
    ptx::WgmmaWait<0>();
    ptx::Settle(even);
    Turn<true>(0, stage, even, odd, odd_p, even_p);
    int i = 1;
    for (; i + 1 < total_; i += 2) {
      Turn<false>(i, stage, odd, even, even_p, odd_p);
      Turn<false>(i + 1, stage, even, odd, odd_p, even_p);
    }
    if (i < total_) {
      Turn<false>(i, stage, odd, even, even_p, odd_p);
#pragma unroll
      for (int e = 0; e < 4 * Policy::kValueSteps; ++e) even_p[e / 4][e % 4] = odd_p[e / 4][e % 4];
    }
    MultiplyValues(Before(stage), even_p);
    ptx::WgmmaCommit();
    ptx::WgmmaWait<0>();
    AddProducts();
    Release(Before(stage));
  }

  // Scores, softmax and sums of each block in turn; what overlaps are the warps of an SM.
  __device__ __forceinline__ void AddInTurn(Stage& stage) {
    Scores scores;
    Probabilities p;
    MultiplyKeys(stage, /*exists=*/true, scores);
    ptx::WgmmaCommit();
    LookAhead(stage.index, After(stage));
    ptx::WgmmaWait<0>();
    ptx::Settle(scores);
#pragma unroll 1
    for (int i = 0; i < total_; ++i) {
      const std::uint32_t current = stage.index;
      const float unit[2] = {queries_.unit[0] * k_scale_, queries_.unit[1] * k_scale_};
      stage.Advance();
      bool careful = false;
      if (Policy::kE4m3Values ||
          __builtin_expect(i >= full_ || huge_ || MaxIsBehind(scores, unit), 0)) {
        float factor[2];
        careful = MaskAndRaise(i, current, unit, scores, factor);
        if constexpr (Policy::kE4m3Values) {
          decay_[0] = factor[0];
          decay_[1] = factor[1];
        } else {
#pragma unroll
          for (int e = 0; e < Policy::kSums; ++e) out_[e] *= factor[e / 2 % 2];
        }
      }
      if (__builtin_expect(careful, 0)) {
        TakeProbabilities<true>(scores, unit, p, sum_);
      } else {
        TakeProbabilities<false>(scores, unit, p, sum_);
      }
      MultiplyValues(current, p);
      ptx::WgmmaCommit();
      ptx::WgmmaWait<0>();
      SettleAll(p);
      AddProducts();
      Release(current);
      MultiplyKeys(stage, i + 1 < total_, scores);
      ptx::WgmmaCommit();
      LookAhead(stage.index, After(stage));
      ptx::WgmmaWait<0>();
      ptx::Settle(scores);
    }
  }

  __device__ __forceinline__ int TileRow(int half) const {
    return first_row_ + half * 8 + ptx::ThreadIndex() % 32 / 4;
  }
  // This warp is done with a stage.
  __device__ __forceinline__ void Release(std::uint32_t stage) {
    __syncwarp();
    if (ptx::ThreadIndex() % 32 == 0) ptx::Arrive(&storage_.stage_empty[stage]);
  }

  // Issues the scores of a block, once it is there.
  __device__ __forceinline__ void MultiplyKeys(const Stage& stage, bool exists, Scores& scores) {
    constexpr int kTileRowBytes = Policy::kScoreRowBytes == 64 ? 64 : 128;
    constexpr int kStepsPerTile = kTileRowBytes / 32;
    if (__builtin_expect(!ready_ && exists, 0)) {
      ptx::Wait(&storage_.stage_full[stage.index], stage.parity);
    }
    const std::uint64_t descriptor =
        ptx::MatrixDescriptor(__cvta_generic_to_shared(storage_.k[0]), 16, 8 * kTileRowBytes,
                              kTileRowBytes == 64 ? ptx::kSwizzle64 : ptx::kSwizzle128) +
        ptx::DescriptorStep(stage.index * Policy::kKeyTileBytes);
    ptx::WgmmaFence();
#pragma unroll
    for (int step = 0; step < Policy::kScoreSteps; ++step) {
      const std::uint64_t at =
          descriptor + ptx::DescriptorStep(step / kStepsPerTile * kBlockKeys * kTileRowBytes +
                                           step % kStepsPerTile * 32);
      const auto& q = queries_.Operand(storage_, warpgroup_, step);
      if (step == 0) {
        ptx::WgmmaScoresFirst(typename Policy::ScoreElement{}, scores, q, at);
      } else {
        ptx::WgmmaScores(typename Policy::ScoreElement{}, scores, q, at);
      }
    }
  }

  // Issues the sums of p v.
  __device__ __forceinline__ void MultiplyValues(std::uint32_t stage, const Probabilities& p) {
    const std::uint32_t smem = __cvta_generic_to_shared(storage_.v[0]);
    ptx::WgmmaFence();
    if constexpr (Policy::kE4m3Values) {
      const std::uint64_t descriptor =
          ptx::MatrixDescriptor(smem, 16, 8 * kBlockKeys, ptx::kSwizzle64) +
          ptx::DescriptorStep(stage * Policy::kValueTileBytes);
      ptx::WgmmaValues(ptx::E4m3{}, part_, p[0], descriptor, 0);
      ptx::WgmmaValues(ptx::E4m3{}, part_, p[1], descriptor + ptx::DescriptorStep(32), 1);
    } else {
      const std::uint64_t descriptor =
          ptx::MatrixDescriptor(smem, kBoxBytes, 8 * kBoxRowBytes, ptx::kSwizzle128) +
          ptx::DescriptorStep(stage * Policy::kValueTileBytes);
#pragma unroll
      for (int step = 0; step < Policy::kValueSteps; ++step) {
        ptx::WgmmaValues(typename Policy::Element{}, out_, p[step],
                         descriptor + ptx::DescriptorStep(step * 16 * kBoxRowBytes), 1);
      }
    }
  }

  // Asks ahead for what the next turn needs first: the scale of its keys, in `stage`, and whether
  // the block after them is there. After the last entry both are read for nobody.
  __device__ __forceinline__ void LookAhead(std::uint32_t stage, const Stage& next) {
    if constexpr (Policy::kInt8Scores) k_scale_ = storage_.k_scale[stage];
    ready_ = ptx::IsComplete(&storage_.stage_full[next.index], next.parity);
  }

  // Turn i: `scores` are those of entry i of the list, which become `p`; `next` takes those of the
  // entry after, and `last` are the probabilities of the one before.
  template <bool kFirst>
  __device__ __forceinline__ void Turn(int i, Stage& stage, Scores& scores, Scores& next,
                                       Probabilities& last, Probabilities& p) {
    const Stage current = stage;
    const float k_scale = k_scale_;
    stage.Advance();
    // After the last entry there is nothing to multiply, but a branch would have the compiler wait
    // for products one by one: whatever lies in the next stage is multiplied, for nobody.
    const bool more = i + 1 < total_;
    if constexpr (Policy::kShortOfRegisters) {
      if constexpr (!kFirst) MultiplyValues(Before(current), last);
      ptx::WgmmaCommit();
      MultiplyKeys(stage, more, next);
    } else {
      MultiplyKeys(stage, more, next);
      if constexpr (!kFirst) MultiplyValues(Before(current), last);
    }
    ptx::WgmmaCommit();
    LookAhead(stage.index, After(stage));

    const float unit[2] = {queries_.unit[0] * k_scale, queries_.unit[1] * k_scale};
    // The common case: every row sees the whole block, and 16-bit probabilities stay in range with
    // the maximum as it is. Whether they did is looked at when everything else is done.
    const float sums_before[2] = {sum_[0], sum_[1]};
    float factor[2];
    bool taken = false;
    if constexpr (Policy::kE4m3Values || kFirst) {
      Raise<kFirst>(i, current.index, unit, scores, p, factor);
    } else if (__builtin_expect(i < full_ && !huge_, 1)) {
      taken = TakeBelowLimit(scores, unit, p);
    }

    ptx::WgmmaWait<0>();
    ptx::Settle(next);
    if constexpr (!kFirst) {
      if constexpr (!Policy::kShortOfRegisters) {
        SettleAll(last);
        AddProducts();
      }
      Release(Before(current));
    }
    if constexpr (Policy::kE4m3Values) {
      decay_[0] = factor[0];
      decay_[1] = factor[1];
    } else if constexpr (!kFirst) {
      if (__builtin_expect(!taken, 0)) {
        sum_[0] = sums_before[0];
        sum_[1] = sums_before[1];
        Raise<kFirst>(i, current.index, unit, scores, p, factor);
#pragma unroll
        for (int e = 0; e < Policy::kSums; ++e) out_[e] *= factor[e / 2 % 2];
      }
    }
  }

  // Products under way have arrived. e4m3: adds them to the sums (two-level accumulation,
  // SageAttention2), which it first brings to their maximum.
  __device__ __forceinline__ void AddProducts() {
    if constexpr (Policy::kE4m3Values) {
      ptx::Settle(part_);
#pragma unroll
      for (int e = 0; e < Policy::kSums; ++e) out_[e] = fmaf(out_[e], decay_[e / 2 % 2], part_[e]);
    } else {
      ptx::Settle(out_);
    }
  }

  // Turns the scores of entry i into probabilities by their own maxima; sums before it are to be
  // multiplied by `factor`.
  template <bool kFirst>
  __device__ __forceinline__ void Raise(int i, std::uint32_t stage, const float (&unit)[2],
                                        Scores& scores, Probabilities& p, float (&factor)[2]) {
    const bool careful = MaskAndRaise(i, stage, unit, scores, factor);
    if constexpr (Policy::kShortOfRegisters) {
      // The last products are there; they are added under the exponentials.
      ptx::WgmmaWait<1>();
      SettleAll(p);
      if constexpr (!kFirst) AddProducts();
    }
    if (__builtin_expect(careful, 0)) {
      TakeProbabilities<true>(scores, unit, p, sum_);
    } else {
      TakeProbabilities<false>(scores, unit, p, sum_);
    }
  }

  // Masks the scores of entry i and brings the maxima up to them; `factor` is what sums so far are
  // to be multiplied by. Whether the probabilities are to be taken with care.
  __device__ __forceinline__ bool MaskAndRaise(int i, std::uint32_t stage, const float (&unit)[2],
                                               Scores& scores, float (&factor)[2]) {
    const bool partial = i >= full_;
    if (__builtin_expect(partial, 0)) MaskScores(i, stage, scores);
    RaiseMax(scores, unit, factor);
    return huge_ || (partial && MaskedMayCount(unit));
  }

  // Whether some row of the warp has a score far above its maximum.
  __device__ __forceinline__ bool MaxIsBehind(const Scores& scores, const float (&unit)[2]) const {
    bool behind = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float lead = fmaf(static_cast<float>(ThreadMax(scores, half)), unit[half], -max_[half]);
      behind |= !(lead <= Policy::kLeadLimit);
    }
    return __any_sync(0xffffffffU, behind);
  }

  // The tensor cores have read them.
  static __device__ __forceinline__ void SettleAll(Probabilities& p) {
#pragma unroll
    for (int step = 0; step < Policy::kValueSteps; ++step) ptx::Settle(p[step]);
  }

  static __device__ __forceinline__ Stage After(Stage stage) {
    stage.Advance();
    return stage;
  }
  static __device__ __forceinline__ std::uint32_t Before(const Stage& stage) {
    return stage.index == 0 ? Policy::kStages - 1 : stage.index - 1;
  }

  // Whether the power of two of some row's masked score may be more than 0: its maximum may come
  // from another block, whose scale was larger. True for NaN as well.
  __device__ __forceinline__ bool MaskedMayCount(const float (&unit)[2]) const {
    bool may = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float maximum = max_[half] == kNegativeInfinity ? 0.0F : max_[half];
      const float exponent = fmaf(static_cast<float>(MaskedScore<typename Policy::Score>::kValue),
                                  unit[half], -maximum);
      may |= !(exponent < kHighestMaskedExponent);
    }
    return __any_sync(0xffffffffU, may);
  }

  // Brings the maxima up to these scores; `factor` is what sums so far are to be multiplied by.
  __device__ __forceinline__ void RaiseMax(const Scores& scores, const float (&unit)[2],
                                           float (&factor)[2]) {
    float block_max[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const typename Policy::Score raw = ThreadMax(scores, half);
      block_max[half] = __fmul_rn(static_cast<float>(raw), unit[half]);
      if (raw == MaskedScore<typename Policy::Score>::kValue) block_max[half] = kNegativeInfinity;
    }
    // Both at once: exchanges take a while.
#pragma unroll
    for (int lane = 1; lane < 4; lane *= 2) {
      const float others[2] = {__shfl_xor_sync(0xffffffffU, block_max[0], lane),
                               __shfl_xor_sync(0xffffffffU, block_max[1], lane)};
      block_max[0] = fmaxf(block_max[0], others[0]);
      block_max[1] = fmaxf(block_max[1], others[1]);
    }
    float largest = 0.0F;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float next = fmaxf(max_[half], block_max[half]);
      // A row that has seen nothing yet keeps its zeros: -inf minus -inf is no number.
      factor[half] = next == kNegativeInfinity ? 1.0F : ptx::Exp2(max_[half] - next);
      max_[half] = next;
      if constexpr (!Policy::kE4m3Values) sum_[half] *= factor[half];
      largest = fmaxf(largest, fabsf(next));
    }
    huge_ = __any_sync(0xffffffffU, largest > kLargestFoldedMax);
  }

  // Takes probabilities as they are to a maximum that may be behind. False where some row of the
  // warp has outgrown it.
  __device__ __forceinline__ bool TakeBelowLimit(const Scores& scores, const float (&unit)[2],
                                                 Probabilities& p) {
    float sums[2] = {0.0F, 0.0F};
    TakeProbabilities<false>(scores, unit, p, sums);
    sum_[0] += sums[0];
    sum_[1] += sums[1];
    return !__any_sync(0xffffffffU, fmaxf(sums[0], sums[1]) > Policy::kSumLimit);
  }

  // kCareful survives masked scores and very large ones.
  template <bool kCareful>
  __device__ __forceinline__ void TakeProbabilities(const Scores& scores, const float (&unit)[2],
                                                    Probabilities& p, float (&sums)[2]) {
    float offset[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float maximum = max_[half] == kNegativeInfinity ? 0.0F : max_[half];
      offset[half] = kCareful ? maximum : Policy::kProbabilityShift - maximum;
    }
    const auto take = [&](int index) {
      const int half = index / 2 % 2;
      const typename Policy::Score score = scores[index];
      const auto value = static_cast<float>(score);
      float exponent = fmaf(value, unit[half], offset[half]);
      if constexpr (kCareful) {
        // Rounded as the maximum was, so that its own element gets exactly 0.
        const float below = __fmul_rn(value, unit[half]) - offset[half];
        // The comparison keeps NaN; fminf would not.
        exponent = (below > 0.0F ? 0.0F : below) + Policy::kProbabilityShift;
        if (score == MaskedScore<typename Policy::Score>::kValue) exponent = kNegativeInfinity;
      }
      return ptx::Exp2(exponent);
    };
#pragma unroll
    for (int step = 0; step < Policy::kValueSteps; ++step) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if constexpr (Policy::kE4m3Values) {
          const int first = 16 * step + e / 2 * 8 + e % 2 * 2;
          const float x[4] = {take(first), take(first + 1), take(first + 4), take(first + 5)};
          p[step][e] = ptx::PackE4m3(x[0], x[1], x[2], x[3]);
        } else {
          const int first = 8 * step + 2 * e;
          const float low = take(first);
          const float high = take(first + 1);
          sums[e % 2] += low + high;
          p[step][e] = ptx::Pack<typename Policy::Element>(low, high);
        }
      }
    }
  }

  // Scores of keys that a row does not see become the least. The sum of a row that sees a key whose
  // V is not finite becomes NaN, as it would have without ContainBadValues().
  __device__ __forceinline__ void MaskScores(int i, std::uint32_t stage, Scores& scores) {
    constexpr std::uint32_t kNaNBits = 0x7fc00000U;
    const int first_key = __ldg(context_.list + i) * kBlockKeys;
    const int first_bad_key = FirstBadKey(storage_.bad_keys[stage]);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int end = min(TileRow(half) + context_.diagonal, context_.length_k) - first_key;
      const int visible = max(0, min(end, kBlockKeys));
#pragma unroll
      for (int j = 0; j < kBlockKeys / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (j * 8 + ptx::ThreadIndex() % 4 * 2 + e >= visible) {
            scores[4 * j + 2 * half + e] = MaskedScore<typename Policy::Score>::kValue;
          }
        }
      }
      if (first_bad_key < end) Sum(half) = __uint_as_float(kNaNBits);
    }
  }

  // The sum of a row: of what this thread has of it, or all of it where the product has it.
  __device__ __forceinline__ float& Sum(int half) {
    if constexpr (Policy::kE4m3Values) return out_[Policy::kChannels + 2 * half];
    return sum_[half];
  }

  // What the sums of a row are to be multiplied by: 0 if it saw nothing. Writes its lse.
  __device__ __forceinline__ float FinishRow(int half) {
    const DeviceTask& task = *context_.task;
    float sum = Sum(half);
    if constexpr (!Policy::kE4m3Values) {
      sum += __shfl_xor_sync(0xffffffffU, sum, 1);
      sum += __shfl_xor_sync(0xffffffffU, sum, 2);
    }
    const int tile_row = TileRow(half);
    const std::int64_t row = context_.first_row + tile_row;
    const bool empty = sum == 0.0F || row >= task.rows_valid;
    if (task.lse != nullptr && row < task.q_rows && ptx::ThreadIndex() % 4 == 0) {
      float& lse = task.lse[LseIndex(context_, tile_row)];
      float smoothing = Policy::kInt8Scores ? lse : 0.0F;
      if (Policy::kInt8Scores && task.q_scales != nullptr) smoothing = GivenSmoothing(row);
      const float log2_sum = max_[half] + log2f(sum) - Policy::kProbabilityShift;
      lse = empty ? kNegativeInfinity : kLn2 * log2_sum + smoothing;
    }
    return empty ? 0.0F : 1.0F / sum;
  }

  // What the lse of a row that came quantised is to have added.
  __device__ __forceinline__ float GivenSmoothing(std::int64_t row) const {
    const DeviceTask& task = *context_.task;
    if (task.q_dots == nullptr) return 0.0F;
    // Rounded as what is left in the lse's place is.
    return __fmul_rn(task.softmax_scale,
                     __ldg(task.q_dots + context_.head * task.q_scales_head_stride + row));
  }

  SharedStorage<Policy>& storage_;
  const TileContext& context_;
  const int warpgroup_;
  const int first_row_;   // of the tile, of this warp's 16
  bool ready_ = false;    // the block that is multiplied next is known to be there
  float k_scale_ = 1.0F;  // of the keys whose scores come next
  int total_;             // of the context, and so is full_
  int full_;
  bool huge_ = true;  // some row of the warp has a maximum too large for shortcuts, or none yet
  TileQueries<Policy> queries_;
  float max_[2];
  float sum_[2];
  float out_[Policy::kSums];
  // Products of one block, and what sums before it are to be multiplied by.
  float part_[Policy::kE4m3Values ? Policy::kSums : 1];
  float decay_[2] = {1.0F, 1.0F};
};

// A consumer warpgroup: its rows of every item.
template <typename Policy>
__device__ __forceinline__ void Consume(SharedStorage<Policy>& storage, int warpgroup) {
  RingPlace<kContexts> item;
  RingPlace<1> query;
  RingPlace<Policy::kStages> stage;
  for (;; item.Advance()) {
    ptx::Wait(&storage.context_full[item.index], item.parity);
    const TileContext& context = storage.contexts[item.index];
    if (context.total == kNoMoreWork) return;
    ConsumerTile<Policy> tile(storage, context, warpgroup);
    ptx::Wait(&storage.query_full, query.parity);
    query.Advance();
    tile.TakeQueries();
    __syncwarp();
    if (ptx::ThreadIndex() % 32 == 0) ptx::Arrive(&storage.query_empty);
    if (context.total > 0) tile.AddBlocks(stage);
    tile.Write();
    __syncwarp();
    if (ptx::ThreadIndex() % 32 == 0) ptx::Arrive(&storage.context_empty[item.index]);
  }
}

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_CONSUMER_CUH_
