#include "kernels/cpu/attend_tile.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>
#include <numeric>

#include "kernels/cpu/prepared_kv.h"
#include "kernels/cpu/quantization_group.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attend_tile.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/dot-inl.h"
#include "kernels/cpu/vector-inl.h"

SAGE_BEFORE_DOT_NAMESPACE();
namespace sage {
namespace HWY_NAMESPACE {
namespace {

using ConstPreparedHead = PreparedHead<const std::byte>;

constexpr std::int64_t kLanes = hn::MaxLanes(DF32());

// Register blocking of both products, in rows and vectors: accumulators and one row of operands fit
// into 32 registers with AVX-512, 16 elsewhere.
constexpr std::int64_t kRowStep = 4;
constexpr std::int64_t kVectorStep = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL ? 4 : 2;

// Far beyond any useful multiplier of a score, and small enough that scores times it stay finite.
constexpr float kMaxMultiplier = 1e25F;

void QuantizeQueryRowsImpl(const float* x, std::int64_t rows, std::int64_t padded, std::int8_t* x8,
                           float* row_scales, std::int32_t* start) {
  const DF32 d;
  const DI32 di;
  const hn::Rebind<std::int8_t, DF32> di8;
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* const from = x + row * padded;
    std::int8_t* const to = x8 + row * padded;
    VI32 largest = hn::Zero(di);
    for (std::int64_t i = 0; i < padded; i += kLanes) {
      largest = hn::Max(largest, MagnitudeBits(d, hn::LoadU(d, from + i)));
    }
    const QuantizationGroup group = MakeQuantizationGroup(hn::GetLane(hn::MaxOfLanes(di, largest)));
    row_scales[row] = group.scale;
    if (group.r == 0.0F) {
      std::fill(to, to + padded, std::int8_t{0});
      start[row] = 0;
      continue;
    }
    QuantizeRow(from, padded, group.r, to);
    VI32 sum = hn::Zero(di);
    for (std::int64_t i = 0; i < padded; i += kLanes) {
      sum = hn::Add(sum, hn::PromoteTo(di, hn::LoadU(di8, to + i)));
    }
    start[row] = -kKeyBias * hn::GetLane(hn::SumOfLanes(di, sum));
  }
}

class TileKernel {
 public:
  TileKernel(const AttendTask& task, std::int64_t head, std::int64_t tile, TileScratch& scratch)
      : task_(task),
        s_(scratch),
        head_(head),
        first_row_(tile * kBlockM),
        rows_(std::min(kBlockM, task.q_rows - first_row_)),
        live_rows_(std::clamp<std::int64_t>(task.length_q - task.q_begin - first_row_, 0, rows_)),
        step_rows_(CeilDiv(live_rows_, kRowStep) * kRowStep),
        kv_head_(head / (task.num_heads_q / task.kv.num_heads)),
        head_dim_(task.kv.head_dim),
        padded_(PaddedHeadDim(task.kv.head_dim)),
        int8_(task.kv.precision != Precision::kFp16),
        e4m3_(task.kv.precision == Precision::kQkInt8PvFp8),
        kv_(PreparedKvLayout(task.kv).Head(static_cast<const std::byte*>(task.prepared_kv),
                                           kv_head_)),
        score_multiplier_(task.softmax_scale * std::numbers::log2e_v<float>) {}

  void Run(std::span<const ActiveBlock> blocks) {
    if (!blocks.empty()) {
      LoadQueries();
      for (const ActiveBlock& active : blocks) AddBlock(active);
    } else {
      std::fill(s_.row_sum, s_.row_sum + live_rows_, 0.0F);
    }
    WriteOutput();
    if (task_.lse != nullptr) WriteLse();
  }

 private:
  // Keys of the block that a row of the tile sees: [0, result).
  std::int64_t VisibleKeys(std::int64_t row, std::int64_t block) const {
    const std::int64_t length_k = task_.kv.length_k;
    const std::int64_t end =
        task_.is_causal ? CausalKeyEnd(task_.q_begin + first_row_ + row, task_.length_q, length_k)
                        : length_k;
    return std::clamp<std::int64_t>(end - block * kBlockN, 0, kBlockN);
  }

  void LoadQueries() {
    if (task_.q_scales.has_value()) {
      LoadGivenQueries();
    } else {
      LoadFloatQueries();
    }
    std::fill(s_.out, s_.out + step_rows_ * padded_, 0.0F);
    std::fill(s_.row_max, s_.row_max + step_rows_, -INFINITY);
    std::fill(s_.rescale, s_.rescale + step_rows_, 1.0F);  // rows past live_rows_ keep it
    std::fill(s_.row_sum, s_.row_sum + step_rows_, 0.0F);
  }

  // Queries that are `sage1` already.
  void LoadGivenQueries() {
    const auto* const data = static_cast<const std::int8_t*>(task_.q.data) +
                             head_ * task_.q.head_stride + first_row_ * task_.q.row_stride;
    for (std::int64_t row = 0; row < live_rows_; ++row) {
      const std::int8_t* const from = data + row * task_.q.row_stride;
      std::int8_t* const to = s_.q8 + row * padded_;
      std::copy(from, from + head_dim_, to);
      std::fill(to + head_dim_, to + padded_, std::int8_t{0});
      s_.q_scales[row] = task_.q_scales->scales[GivenIndex(row)];
      s_.score_start[row] = -kKeyBias * std::accumulate(from, from + head_dim_, 0);
    }
    std::fill(s_.q8 + live_rows_ * padded_, s_.q8 + step_rows_ * padded_, std::int8_t{0});
    std::fill(s_.q_scales + live_rows_, s_.q_scales + step_rows_, 0.0F);
    std::fill(s_.score_start + live_rows_, s_.score_start + step_rows_, 0);
  }

  // Of a row of the tile, in what comes with int8 queries.
  std::int64_t GivenIndex(std::int64_t row) const {
    return head_ * task_.q_scales->head_stride + first_row_ + row;
  }

  void LoadFloatQueries() {
    const auto* const data = static_cast<const std::uint16_t*>(task_.q.data) +
                             head_ * task_.q.head_stride + first_row_ * task_.q.row_stride;
    for (std::int64_t row = 0; row < live_rows_; ++row) {
      WidenRow(task_.kv.dtype, data + row * task_.q.row_stride, head_dim_, padded_,
               s_.q + row * padded_);
    }
    std::fill(s_.q + live_rows_ * padded_, s_.q + step_rows_ * padded_, 0.0F);
    if (int8_) {
      QuantizeQueryRowsImpl(s_.q, step_rows_, padded_, s_.q8, s_.q_scales, s_.score_start);
    }
  }

  void AddBlock(const ActiveBlock& active) {
    const std::int64_t block = active.block;
    float k_scale = 1.0F;
    if (int8_) {
      k_scale = kv_.k_scales[block];
      if (std::isnan(k_scale)) return PoisonRowsThatSee(block);
      Int8Scores(kv_.k8 + block * kBlockN * head_dim_);
    } else {
      WidenKeys(kv_.k16 + block * kBlockN * head_dim_);
      FloatScores();
    }
    for (std::int64_t row = 0; row < live_rows_; ++row) {
      float multiplier = score_multiplier_;
      if (int8_) {
        // A row with a non-finite value gets its NaN at the end, if it sees any key.
        const float q_scale = std::isnan(s_.q_scales[row]) ? 0.0F : s_.q_scales[row];
        multiplier *= q_scale * k_scale;
      }
      multiplier = std::min(multiplier, kMaxMultiplier);
      if (active.partial) {
        Softmax<true>(row, multiplier, VisibleKeys(row, block));
      } else {
        Softmax<false>(row, multiplier, kBlockN);
      }
    }
    LoadValues(block);
    AddValues();
    if (kv_.v_nonfinite[block] != 0) AddWildValues(block);
  }

  // A block of K with a non-finite value: whoever sees an element of it becomes NaN.
  void PoisonRowsThatSee(std::int64_t block) {
    for (std::int64_t row = 0; row < live_rows_; ++row) {
      if (VisibleKeys(row, block) > 0) s_.row_sum[row] = std::numeric_limits<float>::quiet_NaN();
    }
  }

  // scores[row][key] = sum over d of q8[row][d] * k8[key][d], as floats, which hold them exactly.
  void Int8Scores(const std::uint8_t* k8) {
    const DF32 d;
    const DI32 di;
    const auto* const keys = reinterpret_cast<const std::int32_t*>(k8);  // [head_dim / 4, 64]
    for (std::int64_t row = 0; row < live_rows_; row += kRowStep) {
      const std::int8_t* const q8 = s_.q8 + row * padded_;
      for (std::int64_t key = 0; key < kBlockN; key += kVectorStep * kLanes) {
        VI32 sums[kRowStep][kVectorStep];
        for (std::int64_t r = 0; r < kRowStep; ++r) {
          for (std::int64_t j = 0; j < kVectorStep; ++j) {
            sums[r][j] = hn::Set(di, s_.score_start[row + r]);
          }
        }
        for (std::int64_t i = 0; i < head_dim_; i += 4) {
          VI32 k[kVectorStep];
          for (std::int64_t j = 0; j < kVectorStep; ++j) {
            k[j] = hn::LoadU(di, keys + i / 4 * kBlockN + key + j * kLanes);
          }
          for (std::int64_t r = 0; r < kRowStep; ++r) {
            std::int32_t four;
            std::memcpy(&four, q8 + r * padded_ + i, sizeof(four));
            const VI32 q = hn::Set(di, four);
            for (std::int64_t j = 0; j < kVectorStep; ++j) {
              sums[r][j] = Dot4(sums[r][j], k[j], q);
            }
          }
        }
        for (std::int64_t r = 0; r < kRowStep; ++r) {
          for (std::int64_t j = 0; j < kVectorStep; ++j) {
            hn::StoreU(hn::ConvertTo(d, sums[r][j]), d,
                       s_.scores + (row + r) * kBlockN + key + j * kLanes);
          }
        }
      }
    }
  }

  void WidenKeys(const std::uint16_t* k16) {
    for (std::int64_t i = 0; i < head_dim_; ++i) {
      WidenRow(task_.kv.dtype, k16 + i * kBlockN, kBlockN, kBlockN, s_.k + i * kBlockN);
    }
  }

  void FloatScores() {
    for (std::int64_t row = 0; row < live_rows_; row += kRowStep) {
      for (std::int64_t key = 0; key < kBlockN; key += kVectorStep * kLanes) {
        VF32 sums[kRowStep][kVectorStep];
        Product<kRowStep, kVectorStep>(s_.q + row * padded_, padded_, head_dim_, s_.k + key,
                                       kBlockN, sums);
        for (std::int64_t r = 0; r < kRowStep; ++r) {
          for (std::int64_t j = 0; j < kVectorStep; ++j) {
            hn::StoreU(sums[r][j], DF32(), s_.scores + (row + r) * kBlockN + key + j * kLanes);
          }
        }
      }
    }
  }

  // sums[r][j] = sum over i < depth of a[r][i] * b[i][j], j counting vectors.
  template <std::int64_t kRows, std::int64_t kVectors>
  static HWY_INLINE void Product(const float* a, std::int64_t a_stride, std::int64_t depth,
                                 const float* b, std::int64_t b_stride,
                                 VF32 (&sums)[kRows][kVectors]) {
    const DF32 d;
    for (std::int64_t r = 0; r < kRows; ++r) {
      for (std::int64_t j = 0; j < kVectors; ++j) sums[r][j] = hn::Zero(d);
    }
    for (std::int64_t i = 0; i < depth; ++i) {
      VF32 row[kVectors];
      for (std::int64_t j = 0; j < kVectors; ++j) {
        row[j] = hn::LoadU(d, b + i * b_stride + j * kLanes);
      }
      for (std::int64_t r = 0; r < kRows; ++r) {
        const VF32 x = hn::Set(d, a[r * a_stride + i]);
        for (std::int64_t j = 0; j < kVectors; ++j) sums[r][j] = hn::MulAdd(x, row[j], sums[r][j]);
      }
    }
  }

  // Turns a row of scores into probabilities relative to the new row maximum. NaN scores of visible
  // keys make the row's sum NaN; those of other keys are never looked at.
  template <bool kPartial>
  HWY_INLINE void Softmax(std::int64_t row, float multiplier, std::int64_t visible) {
    const DF32 d;
    float* const scores = s_.scores + row * kBlockN;
    const auto is_visible = [&](std::int64_t key) {
      return hn::Lt(hn::Iota(d, static_cast<float>(key)), hn::Set(d, static_cast<float>(visible)));
    };
    if (kPartial && visible == 0) {
      std::fill(scores, scores + kBlockN, 0.0F);
      s_.rescale[row] = 1.0F;
      return;
    }
    VF32 largest = hn::Set(d, -INFINITY);
    for (std::int64_t key = 0; key < kBlockN; key += kLanes) {
      VF32 x = hn::LoadU(d, scores + key);
      if constexpr (kPartial) x = hn::IfThenElse(is_visible(key), x, largest);
      largest = hn::Max(x, largest);
    }
    const float row_max =
        std::max(s_.row_max[row], hn::GetLane(hn::MaxOfLanes(d, largest)) * multiplier);
    VF32 sums = hn::Zero(d);
    for (std::int64_t key = 0; key < kBlockN; key += kLanes) {
      const VF32 x = hn::LoadU(d, scores + key);
      VF32 p = Exp2(d, hn::MulSub(x, hn::Set(d, multiplier), hn::Set(d, row_max)));
      if constexpr (kPartial) p = hn::IfThenElseZero(is_visible(key), p);
      if (e4m3_) p = RoundToE4m3(d, hn::Mul(p, hn::Set(d, kE4m3Max)));
      sums = hn::Add(sums, p);
      hn::StoreU(p, d, scores + key);
    }
    const hn::CappedTag<float, 1> d1;
    const float rescale = hn::GetLane(Exp2(d1, hn::Set(d1, s_.row_max[row] - row_max)));
    s_.rescale[row] = rescale;
    s_.row_sum[row] = s_.row_sum[row] * rescale + hn::GetLane(hn::SumOfLanes(d, sums));
    s_.row_max[row] = row_max;
  }

  // Widens the block's values; what is not finite goes apart, so that p = 0 keeps it out.
  void LoadValues(std::int64_t block) {
    const DF32 d;
    const std::int64_t rows = std::min(kBlockN, task_.kv.length_k - block * kBlockN);
    if (e4m3_) {
      const std::uint8_t* const v8 = kv_.v8 + block * kBlockN * padded_;
      for (std::int64_t i = 0; i < kBlockN * padded_; i += kLanes) {
        hn::StoreU(LoadE4m3(d, v8 + i), d, s_.v + i);
      }
    } else {
      const auto* const data = static_cast<const std::uint16_t*>(task_.kv.v.data) +
                               kv_head_ * task_.kv.v.head_stride +
                               block * kBlockN * task_.kv.v.row_stride;
      for (std::int64_t n = 0; n < rows; ++n) {
        WidenRow(task_.kv.dtype, data + n * task_.kv.v.row_stride, head_dim_, padded_,
                 s_.v + n * padded_);
      }
      std::fill(s_.v + rows * padded_, s_.v + kBlockN * padded_, 0.0F);
    }
    if (kv_.v_nonfinite[block] == 0) return;
    const std::uint8_t* const v8 = kv_.v8 + block * kBlockN * padded_;
    for (std::int64_t i = 0; i < kBlockN * padded_; ++i) {
      const bool wild = e4m3_ ? v8[i] == kE4m3NaN : !std::isfinite(s_.v[i]);
      if (e4m3_ && wild) s_.v[i] = std::numeric_limits<float>::quiet_NaN();
      s_.v_wild[i] = wild ? s_.v[i] : 0.0F;
      if (wild) s_.v[i] = 0.0F;
    }
  }

  void AddValues() {
    for (std::int64_t row = 0; row < live_rows_; row += kRowStep) {
      std::int64_t channel = 0;
      for (; channel + kVectorStep * kLanes <= padded_; channel += kVectorStep * kLanes) {
        AddValuesAt<kVectorStep>(row, channel);
      }
      for (; channel < padded_; channel += kLanes) AddValuesAt<1>(row, channel);
    }
  }

  // out[row][channel] = out * rescale + sum over keys of p * v: the block is summed apart first.
  template <std::int64_t kVectors>
  HWY_INLINE void AddValuesAt(std::int64_t row, std::int64_t channel) {
    const DF32 d;
    VF32 sums[kRowStep][kVectors];
    Product<kRowStep, kVectors>(s_.scores + row * kBlockN, kBlockN, kBlockN, s_.v + channel,
                                padded_, sums);
    for (std::int64_t r = 0; r < kRowStep; ++r) {
      const VF32 rescale = hn::Set(d, s_.rescale[row + r]);
      for (std::int64_t j = 0; j < kVectors; ++j) {
        float* const out = s_.out + (row + r) * padded_ + channel + j * kLanes;
        hn::StoreU(hn::MulAdd(hn::LoadU(d, out), rescale, sums[r][j]), d, out);
      }
    }
  }

  // Adds each non-finite element to the rows that see its key, whatever the key's probability.
  void AddWildValues(std::int64_t block) {
    const DF32 d;
    for (std::int64_t row = 0; row < live_rows_; ++row) {
      const std::int64_t visible = VisibleKeys(row, block);
      for (std::int64_t i = 0; i < padded_; i += kLanes) {
        VF32 sum = hn::LoadU(d, s_.out + row * padded_ + i);
        for (std::int64_t n = 0; n < visible; ++n) {
          sum = hn::Add(sum, hn::LoadU(d, s_.v_wild + n * padded_ + i));
        }
        hn::StoreU(sum, d, s_.out + row * padded_ + i);
      }
    }
  }

  // 1 / row_sum of a row that sees a key, 0 of one that does not, NaN where the row's q is wild.
  float Normaliser(std::int64_t row) const {
    if (row >= live_rows_ || s_.row_sum[row] == 0.0F) return 0.0F;
    if (int8_ && std::isnan(s_.q_scales[row])) return std::numeric_limits<float>::quiet_NaN();
    return 1.0F / s_.row_sum[row];
  }

  void WriteOutput() {
    const DF32 d;
    for (std::int64_t row = 0; row < rows_; ++row) {
      const float normaliser = Normaliser(row);
      float* const from = s_.out + row * padded_;
      if (normaliser == 0.0F) {
        std::fill(from, from + padded_, 0.0F);
      } else {
        for (std::int64_t i = 0; i < padded_; i += kLanes) {
          VF32 x = hn::Mul(hn::LoadU(d, from + i), hn::Set(d, normaliser));
          if (e4m3_)
            x = hn::MulAdd(x, hn::LoadU(d, kv_.v_scales + i), hn::LoadU(d, kv_.v_means + i));
          hn::StoreU(x, d, from + i);
        }
      }
      const std::int64_t element =
          head_ * task_.out.head_stride + (first_row_ + row) * task_.out.row_stride;
      switch (task_.output_dtype) {
        case DType::kFloat16:
          NarrowRow<DType::kFloat16>(from, static_cast<std::uint16_t*>(task_.out.data) + element);
          break;
        case DType::kBFloat16:
          NarrowRow<DType::kBFloat16>(from, static_cast<std::uint16_t*>(task_.out.data) + element);
          break;
        case DType::kFloat32:
          std::copy(from, from + head_dim_, static_cast<float*>(task_.out.data) + element);
          break;
      }
    }
  }

  template <DType kDType>
  void NarrowRow(const float* from, std::uint16_t* to) const {
    const DF32 d;
    const hn::CappedTag<float, 8> d8;
    std::int64_t i = 0;
    for (; i + kLanes <= head_dim_; i += kLanes) Narrow<kDType>(d, hn::LoadU(d, from + i), to + i);
    for (; i < head_dim_; i += hn::MaxLanes(d8)) {
      Narrow<kDType>(d8, hn::LoadU(d8, from + i), to + i);
    }
  }

  // Natural log, for the unsmoothed scores: what smoothing took from every score of a row is
  // softmax_scale q.c. e4m3 sums carry the factor of the probabilities.
  void WriteLse() const {
    float* const lse = task_.lse + head_ * task_.q_rows + first_row_;
    for (std::int64_t row = 0; row < rows_; ++row) {
      const float normaliser = Normaliser(row);
      const float sum = e4m3_ ? s_.row_sum[row] / kE4m3Max : s_.row_sum[row];
      if (normaliser == 0.0F) {
        lse[row] = -INFINITY;
      } else if (std::isnan(normaliser)) {
        lse[row] = normaliser;
      } else {
        const float dot = !int8_ ? 0.0F
                          : task_.q_scales.has_value()
                              ? task_.q_scales->dot_smoothing[GivenIndex(row)]
                              : DotSmoothing(row);
        lse[row] = s_.row_max[row] * std::numbers::ln2_v<float> + std::log(sum) +
                   task_.softmax_scale * dot;
      }
    }
  }

  // fp32 q . c of a row in the order of QueryDotSmoothing: a lane sums eight channels.
  float DotSmoothing(std::int64_t row) const {
    constexpr std::int64_t kRun = 8;
    alignas(64) float sums[kMaxHeadDim / kRun] = {};
    const float* const q = s_.q + row * padded_;
    for (std::int64_t i = 0; i < kRun; ++i) {
      for (std::int64_t run = 0; run < head_dim_ / kRun; ++run) {
        sums[run] += q[run * kRun + i] * kv_.smoothing[run * kRun + i];
      }
    }
    for (std::int64_t count = kMaxHeadDim / kRun / 2; count > 0; count /= 2) {
      for (std::int64_t i = 0; i < count; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
    }
    return sums[0];
  }

  const AttendTask& task_;
  TileScratch& s_;
  const std::int64_t head_;
  const std::int64_t first_row_;  // of the tile within the task
  const std::int64_t rows_;       // of the output
  const std::int64_t live_rows_;  // of them within length_q
  const std::int64_t step_rows_;  // live_rows_ in whole steps
  const std::int64_t kv_head_;
  const std::int64_t head_dim_;
  const std::int64_t padded_;
  const bool int8_;
  const bool e4m3_;
  const ConstPreparedHead kv_;
  const float score_multiplier_;
};

void AttendTileImpl(const AttendTask& task, std::int64_t head, std::int64_t tile,
                    std::span<const ActiveBlock> blocks, TileScratch& scratch) {
  TileKernel(task, head, tile, scratch).Run(blocks);
}

const char* KernelPathImpl() {
  switch (HWY_TARGET) {
    case HWY_AVX3_DL:
      return "avx512_vnni";
    case HWY_AVX3:
      return "avx512";
    case HWY_AVX2:
      return "avx2";
    case HWY_SSE4:
      return "sse4";
    case HWY_NEON:
      return "neon";
    default:
      return "portable";
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace sage
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sage {

HWY_EXPORT(QuantizeQueryRowsImpl);
HWY_EXPORT(AttendTileImpl);
HWY_EXPORT(KernelPathImpl);

void QuantizeQueryRows(const float* x, std::int64_t rows, std::int64_t padded, std::int8_t* x8,
                       float* row_scales, std::int32_t* start) {
  HWY_DYNAMIC_DISPATCH(QuantizeQueryRowsImpl)(x, rows, padded, x8, row_scales, start);
}

void AttendTile(const AttendTask& task, std::int64_t head, std::int64_t tile,
                std::span<const ActiveBlock> blocks, TileScratch& scratch) {
  HWY_DYNAMIC_DISPATCH(AttendTileImpl)(task, head, tile, blocks, scratch);
}

const char* KernelPath() { return HWY_DYNAMIC_DISPATCH(KernelPathImpl)(); }

}  // namespace sage
#endif  // HWY_ONCE
