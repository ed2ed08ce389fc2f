// What one warpgroup computes of a tile, 64 rows: scores, online softmax, sums.
//
// Products are asynchronous. A turn takes one or two listed blocks. Where a thread block has an SM
// for itself, in turn t
//
//   tensor cores     scores q k(t), then sums p(t-1) v(t-1)
//   this warpgroup   p(t) from the scores, under these sums
//
// and under the other warpgroup's products. Where two share it, each of their warps does one thing
// after the other.
#ifndef SAGE_KERNELS_CUDA_SM90_CONSUMER_CUH_
#define SAGE_KERNELS_CUDA_SM90_CONSUMER_CUH_

#include <cstdint>

#include "kernels/cuda/bad_values.cuh"
#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/ptx/wgmma.cuh"
#include "kernels/cuda/sm90/output.cuh"
#include "kernels/cuda/sm90/products.cuh"
#include "kernels/cuda/sm90/queries.cuh"
#include "kernels/cuda/sm90/row_softmax.cuh"
#include "kernels/cuda/sm90/storage.cuh"
#include "kernels/cuda/sm90/turn_list.cuh"

namespace sage::cuda::sm90 {

// The same in every lane, as the compiler then knows: addresses that follow from it need no vector
// registers.
__device__ __forceinline__ std::uint32_t Uniform(std::uint32_t x) {
  return __reduce_or_sync(0xffffffffU, x);
}

template <typename Policy>
class Consumer {
 public:
  using Softmax = RowSoftmax<Policy>;
  using Scores = typename Softmax::Scores;
  using Probabilities = typename Softmax::Operands;
  using Stage = RingPlace<Policy::kStages>;
  using Units = typename Softmax::Units;

  __device__ __forceinline__ Consumer(SharedStorage<Policy>& storage, int warpgroup)
      : storage_(storage),
        warpgroup_(warpgroup),
        first_row_(warpgroup * kConsumerRows + ptx::ThreadIndex() % 128 / 32 * 16) {}

  // All items. The queries of the next one are taken under the last products of each, and its first
  // scores are computed while the rows are written.
  __device__ __forceinline__ void Run() {
    RingPlace<kContexts> item;
    RingPlace<1> query;
    Stage stage;
    Scores scores;    // of the next turn
    Probabilities p;  // of the last
    context_ = Next(item);
    Begin(*context_, query, stage, scores);
    while (context_->total != kNoMoreWork) {
      ptx::WgmmaWait<0>();
      SettleAll(scores);
      Clear();
      std::uint64_t* const done = &storage_.context_empty[item.index];
      item.Advance();
      const ItemContext* next;
      if constexpr (Policy::kInTurn) {
        if (turns_ > 0) AddInTurn(stage, scores, p);
        Write();
        next = Next(item);
        Begin(*next, query, stage, scores);
      } else {
        Stage last = stage;
        if (turns_ > 0) AddAhead(stage, last, scores, p);
        next = Next(item);
        Begin(*next, query, stage, scores);
        End(last, p);
        Write();
      }
      ptx::Arrive(done);
      context_ = next;
    }
    ptx::WgmmaWait<0>();
  }

 private:
  __device__ __forceinline__ const ItemContext* Next(const RingPlace<kContexts>& item) {
    ptx::Wait(&storage_.context_full[item.index], item.parity);
    return &storage_.contexts[item.index];
  }

  // Takes the queries of an item and issues its first scores. Where it has none whatever lies in
  // the stage is multiplied, for nobody: a branch would have the compiler wait for products one by
  // one.
  __device__ __forceinline__ void Begin(const ItemContext& context, RingPlace<1>& query,
                                        const Stage& stage, Scores& scores) {
    if (context.total != kNoMoreWork) {
      ptx::Wait(&storage_.query_full, query.parity);
      query.Advance();
      queries_.Take(storage_, context, warpgroup_);
      ptx::Arrive(&storage_.query_empty);
    }
    if (context.total > 0) ptx::Wait(&State(stage).k_full, stage.parity);
    MultiplyKeys(storage_, queries_, warpgroup_, stage, scores);
  }

  // Waits for the last products of an item, if it has any, under way before the next one's first
  // scores.
  __device__ __forceinline__ void End(const Stage& last, Probabilities& p) {
    // Outside the condition: else the compiler takes sums for products under way.
    if constexpr (Policy::kValueParts == 1) ptx::WgmmaWait<1>();
    if constexpr (!Policy::kE4m3Values) ptx::Settle(out_);
    if (turns_ == 0) return;
    if constexpr (Policy::kValueParts == 2) {
      AddFirstPart(last, p);
      AddProducts<0>(p);
    } else {
      AddProducts<1>(p);
    }
    Release(State(last).v_empty);
  }

  __device__ __forceinline__ void Clear() {
    const TurnList<Policy> turns(static_cast<int>(Uniform(context_->full)),
                                 static_cast<int>(Uniform(context_->total)));
    turns_ = turns.count;
    full_turns_ = turns.full;
    softmax_.Clear();
    decay_[0] = decay_[1] = 1.0F;
#pragma unroll
    for (int i = 0; i < Policy::kSums; ++i) out_[i] = 0.0F;
  }

  // Divides by the sums and writes the rows, and their lse.
  __device__ __forceinline__ void Write() {
    const OutputRows<Policy> rows(storage_, *context_, first_row_);
    const float inverse[2] = {FinishRow(0), FinishRow(1)};
    if constexpr (!Policy::kE4m3Values) {
      if (__any_sync(0xffffffffU, inverse[0] == 0.0F || inverse[1] == 0.0F)) {
#pragma unroll
        for (int e = 0; e < Policy::kSums; ++e) {
          if (inverse[e / 2 % 2] == 0.0F) out_[e] = 0.0F;
        }
      }
    }
    rows.Write(out_, inverse);
  }

  // All turns, at least one, the scores of the first being there: each has scores, softmax and sums
  // one after the other.
  __device__ __forceinline__ void AddInTurn(Stage& stage, Scores& scores, Probabilities& p) {
    ready_ = false;
    Units units;
    ReadUnits(stage, units);
#pragma unroll 1
    for (int turn = 0;;) {
      Turn</*kUnderWay=*/false>(turn, turn == 0 || turn >= full_turns_, stage, stage, units, scores,
                                p);
      if (__builtin_expect(!ready_, 0)) ptx::Wait(&State(stage).v_full, stage.parity);
      MultiplyValues(stage, p);
      ptx::Arrive(&State(stage).k_empty);
      const Stage last = stage;
      stage.Advance();
      const bool more = ++turn < turns_;
      if (more) {
        ptx::Wait(&State(stage).k_full, stage.parity);
        ReadUnits(stage, units);
      }
      AddProducts<0>(p);
      Release(State(last).v_empty);
      if (!more) return;
      MultiplyKeys(storage_, queries_, warpgroup_, stage, scores);
      ready_ = ptx::IsComplete(&State(stage).v_full, stage.parity);
      ptx::WgmmaWait<0>();
      SettleAll(scores);
    }
  }

  // The same, but with the sums of each turn under the softmax of the next; afterwards those of the
  // last, `last`, are under way.
  __device__ __forceinline__ void AddAhead(Stage& stage, Stage& last, Scores& scores,
                                           Probabilities& p) {
    LookAhead(stage);
    Units units;
    ReadUnits(stage, units);
    Turn</*kUnderWay=*/false>(0, /*masked=*/true, stage, last, units, scores, p);
    ptx::Arrive(&State(stage).k_empty);
    stage.Advance();
    int turn = 1;
#pragma unroll 1
    for (; turn < full_turns_; ++turn) AddTurn(turn, /*masked=*/false, stage, last, scores, p);
#pragma unroll 1
    for (; turn < turns_; ++turn) AddTurn(turn, /*masked=*/true, stage, last, scores, p);
    ptx::Wait(&State(last).v_full, last.parity);
    MultiplyValues(last, p);
  }
  __device__ __forceinline__ void AddTurn(int turn, bool masked, Stage& stage, Stage& last,
                                          Scores& scores, Probabilities& p) {
    Units units;
    Multiply(stage, last, units, scores, p);
    Turn</*kUnderWay=*/true>(turn, masked, stage, last, units, scores, p);
    ptx::Arrive(&State(stage).k_empty);
    Release(State(last).v_empty);
    last = stage;
    stage.Advance();
  }

  // Issues the scores of `stage` and the sums of `last`, and waits for the scores.
  __device__ __forceinline__ void Multiply(const Stage& stage, const Stage& last, Units& units,
                                           Scores& scores, Probabilities& p) {
    if (__builtin_expect(!ready_, 0)) {
      ptx::Wait(&State(stage).k_full, stage.parity);
      ptx::Wait(&State(last).v_full, last.parity);
    }
    MultiplyKeys(storage_, queries_, warpgroup_, stage, scores);
    MultiplyValues(last, p);
    LookAhead(stage);
    ReadUnits(stage, units);
    ptx::WgmmaWait<1>();
    SettleAll(scores);
  }

  // What the scores of a stage, which is there, are in units of.
  __device__ __forceinline__ void ReadUnits(const Stage& stage, Units& units) {
#pragma unroll
    for (int block = 0; block < Policy::kTurnBlocks; ++block) {
      const float k_scale = Policy::kInt8Scores ? State(stage).k_scale[block] : 1.0F;
      units[block][0] = queries_.unit[0] * k_scale;
      units[block][1] = queries_.unit[1] * k_scale;
    }
  }

  // Turns the scores of a turn into probabilities; `masked` if some row may not see all of its
  // keys. Where kUnderWay, the products of `last` are, which are then added.
  template <bool kUnderWay>
  __device__ __forceinline__ void Turn(int turn, bool masked, const Stage& stage, const Stage& last,
                                       const Units& units, Scores& scores, Probabilities& p) {
    // While products need the last probabilities, these stay in the places of their scores.
    constexpr bool kPacksEarly = Policy::kE4m3Values && Policy::kValueParts == 1;
    float factor[2];
    bool raised = true;
    if constexpr ((kUnderWay || Policy::kInTurn) && !Policy::kE4m3Values) {
      if (__builtin_expect(!masked, 1)) {
        float sums[2];
        raised = !softmax_.TakeBelowLimit(units, scores, sums);
        if (__builtin_expect(raised, 0)) {
          MultiplyAgain(storage_, queries_, first_row_, stage, scores);
        } else {
          softmax_.Add(sums);
        }
      }
    }
    if (__builtin_expect(raised, 0)) {
      if (masked) MaskScores(turn, stage, scores);
      const bool careful = softmax_.Raise(units, scores, masked, factor);
      if constexpr (Policy::kE4m3Values && kUnderWay) {
        if constexpr (Policy::kValueParts == 2) {
          AddFirstPart(last, p);
        } else {
          AddProducts<0>(p);
        }
      }
      // Only a first turn is short.
      constexpr bool kMayBeShort = Policy::kTurnBlocks == 2 && !kUnderWay;
      const bool short_turn = kMayBeShort && turns_ * Policy::kTurnBlocks != context_->total;
      softmax_.template TakeRaised<kPacksEarly, kMayBeShort>(units, careful, short_turn, scores, p);
    }
    if constexpr (!kPacksEarly && kUnderWay) AddProducts<0>(p);
    if constexpr (Policy::kE4m3Values) {
      decay_[0] = factor[0];
      decay_[1] = factor[1];
    } else {
      if (__builtin_expect(raised, 0)) {
#pragma unroll
        for (int e = 0; e < Policy::kSums; ++e) out_[e] *= factor[e / 2 % 2];
      }
    }
    if constexpr (!kPacksEarly) Softmax::Pack(scores, p);
  }

  // Issues the sums of p v of a stage; of two parts, the first.
  __device__ __forceinline__ void MultiplyValues(const Stage& stage, const Probabilities& p) {
    if constexpr (!Policy::kE4m3Values) {
      sm90::MultiplyValues<0>(storage_, stage, p, out_);
    } else if constexpr (Policy::kValueParts == 2) {
      sm90::MultiplyValues<0>(storage_, stage, p, first_part_);
    } else {
      sm90::MultiplyValues<0>(storage_, stage, p, last_part_);
    }
  }

  // Of two parts of the products of a turn: waits for the first, issues the second and adds the
  // first.
  __device__ __forceinline__ void AddFirstPart(const Stage& stage, const Probabilities& p) {
    ptx::WgmmaWait<0>();
    ptx::Settle(first_part_);
    sm90::MultiplyValues<1>(storage_, stage, p, last_part_);
    AddPart(first_part_, 0);
  }

  // Waits for products until kUnderWay groups issued after them are left, and adds them; of two
  // parts, the last. e4m3: by two-level accumulation (SageAttention2).
  template <int kUnderWay>
  __device__ __forceinline__ void AddProducts(Probabilities& p) {
    ptx::WgmmaWait<kUnderWay>();
    SettleAll(p);
    if constexpr (Policy::kE4m3Values) {
      ptx::Settle(last_part_);
      AddPart(last_part_, Policy::kFirstPart * (Policy::kValueParts - 1));
    } else {
      ptx::Settle(out_);
    }
  }

  // Brings the sums of e4m3 products to their maximum, too.
  template <int kCount>
  __device__ __forceinline__ void AddPart(const float (&part)[kCount], int begin) {
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      out_[begin + e] = fmaf(out_[begin + e], decay_[e / 2 % 2], part[e]);
    }
  }

  __device__ __forceinline__ int TileRow(int half) const {
    return first_row_ + half * 8 + ptx::ThreadIndex() % 32 / 4;
  }
  __device__ __forceinline__ StageState<Policy>& State(const Stage& stage) {
    return storage_.stages[stage.index];
  }
  // This warp's products are done with what a barrier guards. What lanes have read themselves each
  // releases by ptx::Arrive(): racecheck does not see that __syncwarp() orders the reads of others.
  __device__ __forceinline__ void Release(std::uint64_t& barrier) {
    __syncwarp();
    if (ptx::ThreadIndex() % 32 == 0) ptx::Arrive(&barrier);
  }
  // Asks ahead for what the turn after `stage` needs: it takes a while.
  __device__ __forceinline__ void LookAhead(const Stage& stage) {
    Stage next = stage;
    next.Advance();
    ready_ = ptx::IsComplete(&State(next).k_full, next.parity) &&
             ptx::IsComplete(&State(stage).v_full, stage.parity);
  }

  // The tensor cores have read or written them.
  template <typename T, int kRows, int kCount>
  static __device__ __forceinline__ void SettleAll(T (&registers)[kRows][kCount]) {
#pragma unroll
    for (int row = 0; row < kRows; ++row) ptx::Settle(registers[row]);
  }

  // Scores of keys that a row does not see become the least. The sum of a row that sees a key whose
  // V is not finite becomes NaN, as it would have without ContainBadValues().
  __device__ __forceinline__ void MaskScores(int turn, const Stage& stage, Scores& scores) {
    constexpr std::uint32_t kNaNBits = 0x7fc00000U;
    const int full = context_->full;
    if (turn >= full_turns_) ptx::Wait(&State(stage).v_full, stage.parity);  // and bad_keys
    const TurnList<Policy> turns(full, context_->total);
#pragma unroll
    for (int block = 0; block < Policy::kTurnBlocks; ++block) {
      const int entry = turns.Entry(turn, block);
      if (entry >= 0 && entry < full) continue;
      const int first_key = entry < 0 ? 0 : __ldg(context_->list + entry) * kBlockKeys;
      const int first_bad_key = entry < 0 ? kNoBadKey : FirstBadKey(State(stage).bad_keys[block]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int end = min(TileRow(half) + context_->diagonal, context_->length_k) - first_key;
        const int visible = entry < 0 ? 0 : max(0, min(end, kBlockKeys));
#pragma unroll
        for (int j = 0; j < kBlockKeys / 8; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (j * 8 + ptx::ThreadIndex() % 4 * 2 + e >= visible) {
              scores[block][4 * j + 2 * half + e] = MaskedScore<typename Policy::Score>::kValue;
            }
          }
        }
        if (first_bad_key < end) Sum(half) = __uint_as_float(kNaNBits);
      }
    }
  }

  // The sum of a row: of what this thread has of it, or all of it where the product has it.
  __device__ __forceinline__ float& Sum(int half) {
    if constexpr (Policy::kE4m3Values) return out_[Policy::kChannels + 2 * half];
    return softmax_.sum(half);
  }

  // What the sums of a row are to be multiplied by: 0 if it saw nothing. Writes its lse.
  __device__ __forceinline__ float FinishRow(int half) {
    const ItemContext& context = *context_;
    float sum = Sum(half);
    if constexpr (!Policy::kE4m3Values) {
      sum += __shfl_xor_sync(0xffffffffU, sum, 1);
      sum += __shfl_xor_sync(0xffffffffU, sum, 2);
    }
    const int row = TileRow(half);
    const bool empty = sum == 0.0F || row >= context.rows_valid;
    if (context.lse != nullptr && row < context.rows && ptx::ThreadIndex() % 4 == 0) {
      float& lse = context.lse[row];
      float smoothing = Policy::kInt8Scores ? lse : 0.0F;
      if (Policy::kInt8Scores && context.quantized_queries) {
        smoothing = GivenSmoothing(row);
      }
      const float log2_sum = softmax_.max(half) + log2f(sum) - Policy::kProbabilityShift;
      lse = empty ? kNegativeInfinity : kLn2 * log2_sum + smoothing;
    }
    return empty ? 0.0F : 1.0F / sum;
  }

  // What the lse of a row that came quantised is to have added.
  __device__ __forceinline__ float GivenSmoothing(int row) const {
    const DeviceTask& task = *context_->task;
    if (task.q_dots == nullptr) return 0.0F;
    // Rounded as what is left in the lse's place is.
    return __fmul_rn(context_->softmax_scale,
                     __ldg(task.q_dots + context_->head * task.q_scales_head_stride +
                           context_->first_row + row));
  }

  SharedStorage<Policy>& storage_;
  const ItemContext* context_;  // of the item whose sums these are
  const int warpgroup_;
  const int first_row_;  // of the tile, of this warp's 16
  bool ready_;           // what the next turn needs is known to be there
  int turns_;            // of the context, and so is full_turns_
  int full_turns_;
  TileQueries<Policy> queries_;
  Softmax softmax_;
  float out_[Policy::kSums];
  // Products of one turn, and what sums before it are to be multiplied by.
  float first_part_[Policy::kFirstPart];
  float last_part_[Policy::kLastPart];
  float decay_[2];
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_CONSUMER_CUH_
