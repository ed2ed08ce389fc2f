// What one warpgroup computes of a tile, 64 rows: scores, online softmax, sums.
//
// Products are asynchronous, so that the tensor cores have work while the probabilities of a block
// are computed. Turn i:
//
//   tensor cores     scores q k(i+1), sums p(i-1) v(i-1)
//   this warpgroup   p(i) from the scores q k(i)
#ifndef SAGE_KERNELS_CUDA_SM90_CONSUMER_CUH_
#define SAGE_KERNELS_CUDA_SM90_CONSUMER_CUH_

#include <cstdint>

#include "kernels/cuda/bad_values.cuh"
#include "kernels/cuda/ptx/ldmatrix.cuh"
#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/ptx/wgmma.cuh"
#include "kernels/cuda/sm90/storage.cuh"
#include "kernels/cuda/store_vector.cuh"
#include "kernels/cuda/swizzled_tile.cuh"

namespace sage::cuda::sm90 {

// A maximum (log2) above which fma(score, unit, -maximum) may miss 0 by more than 1/64.
inline constexpr float kLargestFoldedMax = 262144.0F;

// The same in every lane, as the compiler then knows: addresses that follow from it need no vector
// registers.
__device__ __forceinline__ int Uniform(std::uint32_t x) {
  return static_cast<int>(__reduce_or_sync(0xffffffffU, x));
}

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
// The same over the four threads of a row.
__device__ __forceinline__ float RowMax(float thread_max) {
  const float pair = fmaxf(thread_max, __shfl_xor_sync(0xffffffffU, thread_max, 1));
  return fmaxf(pair, __shfl_xor_sync(0xffffffffU, pair, 2));
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
        first_row_(warpgroup * kConsumerRows + ptx::ThreadIndex() % 128 / 32 * 16) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      max_[half] = kNegativeInfinity;
      sum_[half] = 0.0F;
    }
#pragma unroll
    for (int i = 0; i < Policy::kSums; ++i) out_[i] = 0.0F;
  }

  // Takes over what the producer has left.
  __device__ __forceinline__ void LoadQueries() {
    using Tile = SwizzledTile<Policy::kScoreRowBytes>;
    const int lane = ptx::ThreadIndex() % 32;
    const std::uint32_t smem =
        __cvta_generic_to_shared(storage_.q) + Tile::Offset(first_row_ + lane % 16, lane / 16);
#pragma unroll
    for (int step = 0; step < Policy::kScoreSteps; ++step) {
      ptx::LoadMatrices(q_[step], Tile::Step(smem, step));
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      row_unit_[half] = storage_.score_unit[first_row_ + half * 8 + lane / 4];
    }
  }

  // All listed blocks, at least one, from `place` on. Afterwards the sums are whole.
  __device__ __forceinline__ void AddBlocks(Stage& place) {
    Stage stage = {Uniform(place.index), static_cast<std::uint32_t>(Uniform(place.parity))};
    total_ = Uniform(context_.total);
    full_ = Uniform(context_.full);
    if constexpr (Policy::kScoresAhead) {
      AddBlocksAhead(stage);
    } else {
      AddBlocksInTurn(stage);
    }
    place = stage;
  }

  // Divides by the sums and writes the rows, and their lse.
  __device__ __forceinline__ void Write() {
    const DeviceTask& task = *context_.task;
    const int thread = ptx::ThreadIndex() % 4;
    const std::int64_t channel_index =
        static_cast<std::int64_t>(context_.head / task.group_size) * Policy::kHeadDim;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int tile_row = TileRow(half);
      const float inverse = FinishRow(half);
      std::uint8_t* const row = task.out.data + context_.head * task.out.head_stride_bytes +
                                (context_.first_row + tile_row) * task.out.row_stride_bytes;
      const bool exists = context_.first_row + tile_row < task.q_rows;
#pragma unroll
      for (int first = 0; first < Policy::kHeadDim / 8; first += 4) {
        float x[8];
        GatherVector(half, first, thread, x);
        const int vector = first + thread;
        if (!exists || vector * 8 >= context_.head_dim) continue;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float value = x[j] * inverse;
          if constexpr (Policy::kE4m3Values) {
            const std::int64_t channel = channel_index + vector * 8 + j;
            value = fmaf(value, __ldg(task.v_scales + channel), __ldg(task.v_means + channel));
          }
          // The sums of a row that saw nothing may be no numbers.
          x[j] = inverse == 0.0F ? 0.0F : value;
        }
        StoreVector(row, vector, task.output_type, x);
      }
    }
  }

 private:
  __device__ __forceinline__ int TileRow(int half) const {
    return first_row_ + half * 8 + ptx::ThreadIndex() % 32 / 4;
  }
  // This warp is done with a stage.
  __device__ __forceinline__ void Release(int stage) {
    __syncwarp();
    if (ptx::ThreadIndex() % 32 == 0) ptx::Arrive(&storage_.stage_empty[stage]);
  }

  // Waits for a block and issues its scores.
  __device__ __forceinline__ void MultiplyKeys(const Stage& stage, Scores& scores) {
    constexpr int kTileRowBytes = Policy::kScoreRowBytes == 64 ? 64 : 128;
    constexpr int kStepsPerTile = kTileRowBytes / 32;
    ptx::Wait(&storage_.stage_full[stage.index], stage.parity);
    const std::uint64_t descriptor = ptx::MatrixDescriptor(
        __cvta_generic_to_shared(storage_.k[stage.index]), 16, 8 * kTileRowBytes,
        kTileRowBytes == 64 ? ptx::kSwizzle64 : ptx::kSwizzle128);
    ptx::WgmmaFence();
#pragma unroll
    for (int step = 0; step < Policy::kScoreSteps; ++step) {
      const std::uint64_t at =
          descriptor + ptx::DescriptorStep(step / kStepsPerTile * kBlockKeys * kTileRowBytes +
                                           step % kStepsPerTile * 32);
      if (step == 0) {
        ptx::WgmmaScoresFirst(typename Policy::ScoreElement{}, scores, q_[step], at);
      } else {
        ptx::WgmmaScores(typename Policy::ScoreElement{}, scores, q_[step], at);
      }
    }
  }

  // Issues the sums of p v.
  __device__ __forceinline__ void MultiplyValues(int stage, const Probabilities& p) {
    const std::uint32_t smem = __cvta_generic_to_shared(storage_.v[stage]);
    ptx::WgmmaFence();
    if constexpr (Policy::kE4m3Values) {
      const std::uint64_t descriptor =
          ptx::MatrixDescriptor(smem, 16, 8 * kBlockKeys, ptx::kSwizzle64);
      ptx::WgmmaValuesFirst(ptx::E4m3{}, part_, p[0], descriptor);
      ptx::WgmmaValues(ptx::E4m3{}, part_, p[1], descriptor + ptx::DescriptorStep(32));
    } else {
      const std::uint64_t descriptor =
          ptx::MatrixDescriptor(smem, kBoxBytes, 8 * kBoxRowBytes, ptx::kSwizzle128);
#pragma unroll
      for (int step = 0; step < Policy::kValueSteps; ++step) {
        ptx::WgmmaValues(typename Policy::Element{}, out_, p[step],
                         descriptor + ptx::DescriptorStep(step * 16 * kBoxRowBytes));
      }
    }
  }

  // The scores of a block are computed under the softmax of the one before, and so are the sums.
  __device__ __forceinline__ void AddBlocksAhead(Stage& stage) {
    Scores even;
    Scores odd;
    Probabilities p[2];
    MultiplyKeys(stage, even);
    ptx::WgmmaCommit();
    ptx::WgmmaWait<0>();
    ptx::Settle(even);
    Turn<true>(0, stage, even, odd, p[1], p[0]);
    int i = 1;
    for (; i + 1 < total_; i += 2) {
      Turn<false>(i, stage, odd, even, p[0], p[1]);
      Turn<false>(i + 1, stage, even, odd, p[1], p[0]);
    }
    if (i < total_) {
      Turn<false>(i, stage, odd, even, p[0], p[1]);
#pragma unroll
      for (int e = 0; e < 4 * Policy::kValueSteps; ++e) p[0][e / 4][e % 4] = p[1][e / 4][e % 4];
    }
    MultiplyValues(Previous(stage.index), p[0]);
    ptx::WgmmaCommit();
    ptx::WgmmaWait<0>();
    AddProducts<false>();
    Release(Previous(stage.index));
  }

  // The same with less registers: scores and sums are computed under the softmax of the other
  // warpgroup.
  __device__ __forceinline__ void AddBlocksInTurn(Stage& stage) {
    Scores scores;
    Probabilities p;
    MultiplyKeys(stage, scores);
    ptx::WgmmaCommit();
    ptx::WgmmaWait<0>();
    ptx::Settle(scores);
#pragma unroll 1
    for (int i = 0; i < total_; ++i) {
      const Stage current = stage;
      float factor[2];
      const bool raised = TakeBlock<false>(i, current.index, scores, p, factor);
      Rescale(raised, factor);
      stage.Advance();
      MultiplyKeys(Choose(i + 1 < total_, stage, current), scores);
      MultiplyValues(current.index, p);
      ptx::WgmmaCommit();
      ptx::WgmmaWait<0>();
      ptx::Settle(scores);
      SettleAll(p);
      AddProducts<false>();
      Release(current.index);
    }
  }

  // Turn i: `scores` are those of entry i of the list, which become `p`; `next` takes those of the
  // entry after, and `last` are the probabilities of the one before.
  template <bool kFirst>
  __device__ __forceinline__ void Turn(int i, Stage& stage, Scores& scores, Scores& next,
                                       Probabilities& last, Probabilities& p) {
    const Stage current = stage;
    stage.Advance();
    // After the last entry there is nothing to multiply. A branch would have the compiler wait for
    // products one by one, so the scores are computed once more, for nobody.
    MultiplyKeys(Choose(i + 1 < total_, stage, current), next);
    if constexpr (!kFirst) MultiplyValues(Previous(current.index), last);
    ptx::WgmmaCommit();

    float factor[2];
    const bool raised = TakeBlock<kFirst>(i, current.index, scores, p, factor);

    ptx::WgmmaWait<0>();
    ptx::Settle(next);
    if constexpr (!kFirst) SettleAll(last);
    AddProducts<kFirst>();
    if (Policy::kE4m3Values || !kFirst) Rescale(raised, factor);
    if constexpr (!kFirst) Release(Previous(current.index));
  }

  // Brings the sums to maxima that were raised; e4m3: with the next products.
  __device__ __forceinline__ void Rescale(bool raised, const float (&factor)[2]) {
    if constexpr (Policy::kE4m3Values) {
      decay_[0] = factor[0];
      decay_[1] = factor[1];
    } else if (__builtin_expect(raised, 0)) {
#pragma unroll
      for (int e = 0; e < Policy::kSums; ++e) out_[e] *= factor[e / 2 % 2];
    }
  }

  // Turns the scores of entry i into probabilities. Returns whether maxima were raised: then sums
  // before it are to be multiplied by `factor`, which always holds where values are e4m3.
  template <bool kFirst>
  __device__ __forceinline__ bool TakeBlock(int i, int stage, Scores& scores, Probabilities& p,
                                            float (&factor)[2]) {
    const float k_scale = Policy::kInt8Scores ? storage_.k_scale[stage] : 1.0F;
    const float unit[2] = {row_unit_[0] * k_scale, row_unit_[1] * k_scale};
    const bool partial = i >= full_;
    if constexpr (kFirst || Policy::kE4m3Values) {
      if (__builtin_expect(partial, 0)) MaskScores(i, stage, scores);
      RaiseMax(scores, unit, factor);
      if (__builtin_expect(partial || huge_, 0)) {
        TakeProbabilities<true>(scores, unit, p, sum_);
      } else {
        TakeProbabilities<false>(scores, unit, p, sum_);
      }
      return true;
    } else {
      if (__builtin_expect(!partial && !huge_, 1) && TakeBelowLimit(scores, unit, p)) return false;
      if (partial) MaskScores(i, stage, scores);
      RaiseMax(scores, unit, factor);
      TakeProbabilities<true>(scores, unit, p, sum_);
      return true;
    }
  }

  // The tensor cores have read them.
  static __device__ __forceinline__ void SettleAll(Probabilities& p) {
#pragma unroll
    for (int step = 0; step < Policy::kValueSteps; ++step) ptx::Settle(p[step]);
  }

  // By value: a conditional operator of places would have them in memory.
  static __device__ __forceinline__ Stage Choose(bool first, Stage a, Stage b) {
    return {first ? a.index : b.index, first ? a.parity : b.parity};
  }
  static __device__ __forceinline__ int Previous(int stage) {
    return stage == 0 ? Policy::kStages - 1 : stage - 1;
  }

  // The products under way have arrived. e4m3: adds them to the sums (two-level accumulation,
  // SageAttention2), which it first brings to their maximum.
  template <bool kNone>
  __device__ __forceinline__ void AddProducts() {
    if constexpr (kNone) {
      return;
    } else if constexpr (Policy::kE4m3Values) {
      ptx::Settle(part_);
#pragma unroll
      for (int e = 0; e < Policy::kSums; ++e) out_[e] = fmaf(out_[e], decay_[e / 2 % 2], part_[e]);
    } else {
      ptx::Settle(out_);
    }
  }

  // Brings the maxima up to these scores; `factor` is what sums so far are to be multiplied by.
  __device__ __forceinline__ void RaiseMax(const Scores& scores, const float (&unit)[2],
                                           float (&factor)[2]) {
    float largest = 0.0F;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const typename Policy::Score raw = ThreadMax(scores, half);
      float block_max = __fmul_rn(static_cast<float>(raw), unit[half]);
      if (raw == MaskedScore<typename Policy::Score>::kValue) block_max = kNegativeInfinity;
      const float next = fmaxf(max_[half], RowMax(block_max));
      // A row that has seen nothing yet keeps its zeros: -inf minus -inf is no number.
      factor[half] = next == kNegativeInfinity ? 1.0F : ptx::Exp2(max_[half] - next);
      max_[half] = next;
      sum_[half] *= factor[half];
      largest = fmaxf(largest, next == kNegativeInfinity ? 0.0F : fabsf(next));
    }
    huge_ = __any_sync(0xffffffffU, largest > kLargestFoldedMax);
  }

  // Takes probabilities as they are to a maximum that may be behind. False, with nothing changed
  // but `p`, where some row of the warp has outgrown it.
  __device__ __forceinline__ bool TakeBelowLimit(const Scores& scores, const float (&unit)[2],
                                                 Probabilities& p) {
    float sums[2] = {0.0F, 0.0F};
    TakeProbabilities<false>(scores, unit, p, sums);
    const bool outgrown = fmaxf(sums[0], sums[1]) > Policy::kSumLimit;
    if (__any_sync(0xffffffffU, outgrown)) return false;
    sum_[0] += sums[0];
    sum_[1] += sums[1];
    return true;
  }

  // kCareful survives masked scores and very large ones.
  template <bool kCareful>
  __device__ __forceinline__ void TakeProbabilities(const Scores& scores, const float (&unit)[2],
                                                    Probabilities& p, float (&sums)[2]) {
    float offset[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      offset[half] = kCareful ? max_[half] == kNegativeInfinity ? 0.0F : max_[half]
                              : Policy::kProbabilityShift - max_[half];
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
          if constexpr (!Policy::kOnes) sums[e % 2] += (x[0] + x[1]) + (x[2] + x[3]);
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
  __device__ __forceinline__ void MaskScores(int i, int stage, Scores& scores) {
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
      if (first_bad_key < end) sum_[half] = __uint_as_float(kNaNBits);
    }
  }

  // What the sums of a row are to be multiplied by: 0 if it saw nothing. Writes its lse.
  __device__ __forceinline__ float FinishRow(int half) {
    const DeviceTask& task = *context_.task;
    float sum = sum_[half];
    if constexpr (Policy::kOnes) {
      sum += out_[Policy::kChannels + 2 * half];
    } else {
      sum += __shfl_xor_sync(0xffffffffU, sum, 1);
      sum += __shfl_xor_sync(0xffffffffU, sum, 2);
    }
    const int tile_row = TileRow(half);
    const std::int64_t row = context_.first_row + tile_row;
    const bool empty = sum == 0.0F || row >= task.rows_valid;
    if (task.lse != nullptr && row < task.q_rows && ptx::ThreadIndex() % 4 == 0) {
      float& lse = task.lse[LseIndex(context_, tile_row)];
      const float smoothing = Policy::kInt8Scores ? lse : 0.0F;
      const float log2_sum = max_[half] + log2f(sum) - Policy::kProbabilityShift;
      lse = empty ? kNegativeInfinity : kLn2 * log2_sum + smoothing;
    }
    return empty ? 0.0F : 1.0F / sum;
  }

  // The four threads of a row have two channels of each eight. After this thread t has all of
  // channels [8 (first + t), + 8): a transpose in two exchanges.
  __device__ __forceinline__ void GatherVector(int half, int first, int thread, float (&x)[8]) {
    float2 own[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int index = 4 * (first + j) + 2 * half;
      own[j] = make_float2(out_[index], out_[index + 1]);
    }
    const bool odd = (thread & 1) != 0;
    const bool high = (thread & 2) != 0;
#pragma unroll
    for (int j = 0; j < 4; j += 2) Exchange(own[j], own[j + 1], odd, 1);
#pragma unroll
    for (int j = 0; j < 2; ++j) Exchange(own[j], own[j + 2], high, 2);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      x[2 * j] = own[j].x;
      x[2 * j + 1] = own[j].y;
    }
  }
  // Between lanes that differ in `lane_bit`: the lower keeps `a` and gets the other's `a` for its
  // `b`, the upper, which is `second`, keeps `b` and gets the other's `b` for its `a`.
  static __device__ __forceinline__ void Exchange(float2& a, float2& b, bool second, int lane_bit) {
    float2 sent = second ? a : b;
    sent.x = __shfl_xor_sync(0xffffffffU, sent.x, lane_bit);
    sent.y = __shfl_xor_sync(0xffffffffU, sent.y, lane_bit);
    (second ? a : b) = sent;
  }

  SharedStorage<Policy>& storage_;
  const TileContext& context_;
  const int first_row_;  // of the tile, of this warp's 16
  int total_;            // of the context, and so is full_
  int full_;
  bool huge_ = true;  // some row of the warp has a maximum too large for shortcuts, or none yet
  std::uint32_t q_[Policy::kScoreSteps][4];
  float row_unit_[2];
  float max_[2];
  float sum_[2];  // of what this thread has of a row; 0 or NaN where the product has the sums
  float out_[Policy::kSums];
  // Products of one block, and what sums before it are to be multiplied by.
  float part_[Policy::kE4m3Values ? Policy::kSums : 1];
  float decay_[2];
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
    tile.LoadQueries();
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
