#include "kernels/cpu/prepare_kv.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/quantization_group.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/prepare_kv.cc"
#include "hwy/foreach_target.h"
// After foreach_target.h.
#include "hwy/highway.h"
#include "kernels/cpu/vector-inl.h"

#ifndef SAGE_KERNELS_CPU_PREPARE_KV_ONCE_
#define SAGE_KERNELS_CPU_PREPARE_KV_ONCE_
namespace sage {

// Per channel of one block, over the finite elements. Written by GatherBlockStatistics where
// PackBlock will put the block's keys, which need at least as many bytes.
struct BlockStatistics {
  BlockStatistics(const KvTask& task, std::int64_t block, const MutablePreparedHead& head)
      : padded(PaddedHeadDim(task.head_dim)),
        k_sum(reinterpret_cast<float*>(head.k8 + block * kBlockN * task.head_dim)) {}

  std::int64_t padded;
  float* k_sum;  // [Dp], and so are the others, which follow it
  float* v_sum() const { return k_sum + padded; }
  float* v_min() const { return k_sum + 2 * padded; }
  float* v_max() const { return k_sum + 3 * padded; }
};
static_assert(4 * sizeof(float) * PaddedHeadDim(8) <= kBlockN * 8);

inline const std::uint16_t* Row(const ConstHeads& heads, std::int64_t head, std::int64_t row) {
  return static_cast<const std::uint16_t*>(heads.data) + head * heads.head_stride +
         row * heads.row_stride;
}

inline std::int64_t BlockRows(const KvTask& task, std::int64_t block) {
  return std::min(kBlockN, task.length_k - block * kBlockN);
}

}  // namespace sage
#endif  // SAGE_KERNELS_CPU_PREPARE_KV_ONCE_

HWY_BEFORE_NAMESPACE();
namespace sage {
namespace HWY_NAMESPACE {
namespace {

void GatherBlockStatisticsImpl(const KvTask& task, std::int64_t head, std::int64_t block,
                               const MutablePreparedHead& out) {
  const DF32 d;
  const DI32 di;
  const BlockStatistics statistics(task, block, out);
  const std::int64_t padded = statistics.padded;
  const std::int64_t rows = BlockRows(task, block);
  const bool has_k = !task.k_scales.has_value();
  const bool has_v = task.precision == Precision::kQkInt8PvFp8;
  std::fill(statistics.k_sum, statistics.v_min(), 0.0F);
  std::fill(statistics.v_min(), statistics.v_max(), INFINITY);
  std::fill(statistics.v_max(), statistics.v_max() + padded, -INFINITY);
  const auto is_finite = [&](VF32 x) {
    return hn::RebindMask(d, hn::Lt(MagnitudeBits(d, x), hn::Set(di, kInfinityBits)));
  };
  alignas(64) float row[kMaxHeadDim];
  for (std::int64_t n = 0; n < rows; ++n) {
    if (has_k) {
      WidenRow(task.dtype, Row(task.k, head, block * kBlockN + n), task.head_dim, padded, row);
      for (std::int64_t i = 0; i < padded; i += hn::MaxLanes(d)) {
        const VF32 k = hn::LoadU(d, row + i);
        const VF32 sum = hn::LoadU(d, statistics.k_sum + i);
        hn::StoreU(hn::Add(sum, hn::IfThenElseZero(is_finite(k), k)), d, statistics.k_sum + i);
      }
    }
    if (!has_v) continue;
    WidenRow(task.dtype, Row(task.v, head, block * kBlockN + n), task.head_dim, padded, row);
    for (std::int64_t i = 0; i < padded; i += hn::MaxLanes(d)) {
      const VF32 v = hn::LoadU(d, row + i);
      const auto finite = is_finite(v);
      const VF32 sum = hn::LoadU(d, statistics.v_sum() + i);
      const VF32 min = hn::LoadU(d, statistics.v_min() + i);
      const VF32 max = hn::LoadU(d, statistics.v_max() + i);
      hn::StoreU(hn::Add(sum, hn::IfThenElseZero(finite, v)), d, statistics.v_sum() + i);
      hn::StoreU(hn::Min(min, hn::IfThenElse(finite, v, min)), d, statistics.v_min() + i);
      hn::StoreU(hn::Max(max, hn::IfThenElse(finite, v, max)), d, statistics.v_max() + i);
    }
  }
}

// Widens a block of K or V into rows of `padded` floats, zeros past the end.
void WidenBlock(const KvTask& task, const ConstHeads& from, std::int64_t head, std::int64_t block,
                std::int64_t padded, float* to) {
  const std::int64_t rows = BlockRows(task, block);
  for (std::int64_t n = 0; n < rows; ++n) {
    WidenRow(task.dtype, Row(from, head, block * kBlockN + n), task.head_dim, padded,
             to + n * padded);
  }
  std::fill(to + rows * padded, to + kBlockN * padded, 0.0F);
}

// Four channels of key `n` of a block, from channel `i` on, to their place in the packed block.
void PackFourChannels(const std::int8_t* x8, std::int64_t i, std::int64_t n, std::uint8_t* packed) {
  std::uint32_t four;
  std::memcpy(&four, x8 + i, sizeof(four));
  four ^= 0x80808080U;  // adds kKeyBias to each
  std::memcpy(packed + i * kBlockN + n * 4, &four, sizeof(four));
}

// Keys that are `sage1` already.
void PackGivenKeys(const KvTask& task, std::int64_t head, std::int64_t block,
                   const MutablePreparedHead& out) {
  const std::int64_t rows = BlockRows(task, block);
  out.k_scales[block] = task.k_scales->scales[head * task.k_scales->head_stride + block];
  std::uint8_t* const packed = out.k8 + block * kBlockN * task.head_dim;
  const auto* const data = static_cast<const std::int8_t*>(task.k.data) +
                           head * task.k.head_stride + block * kBlockN * task.k.row_stride;
  constexpr std::int8_t kZeros[kMaxHeadDim] = {};
  for (std::int64_t n = 0; n < kBlockN; ++n) {
    const std::int8_t* const x8 = n < rows ? data + n * task.k.row_stride : kZeros;
    for (std::int64_t i = 0; i < task.head_dim; i += 4) PackFourChannels(x8, i, n, packed);
  }
}

void PackInt8Keys(const KvTask& task, std::int64_t head, std::int64_t block,
                  const MutablePreparedHead& out) {
  const DF32 d;
  const DI32 di;
  const std::int64_t padded = PaddedHeadDim(task.head_dim);
  const std::int64_t rows = BlockRows(task, block);
  alignas(64) float x[kBlockN * kMaxHeadDim];
  WidenBlock(task, task.k, head, block, padded, x);
  VI32 largest = hn::Zero(di);
  for (std::int64_t n = 0; n < rows; ++n) {
    for (std::int64_t i = 0; i < padded; i += hn::MaxLanes(d)) {
      const VF32 centred =
          hn::Sub(hn::LoadU(d, x + n * padded + i), hn::LoadU(d, out.smoothing + i));
      hn::StoreU(centred, d, x + n * padded + i);
      largest = hn::Max(largest, MagnitudeBits(d, centred));
    }
  }
  const QuantizationGroup group = MakeQuantizationGroup(hn::GetLane(hn::MaxOfLanes(di, largest)));
  out.k_scales[block] = group.scale;

  std::uint8_t* const packed = out.k8 + block * kBlockN * task.head_dim;
  if (group.r == 0.0F) {
    std::fill(packed, packed + kBlockN * task.head_dim, std::uint8_t{kKeyBias});
    return;
  }
  alignas(64) std::int8_t x8[kMaxHeadDim];
  for (std::int64_t n = 0; n < kBlockN; ++n) {
    QuantizeRow(x + n * padded, padded, group.r, x8);
    for (std::int64_t i = 0; i < task.head_dim; i += 4) PackFourChannels(x8, i, n, packed);
  }
}

void PackE4m3Values(const KvTask& task, std::int64_t head, std::int64_t block,
                    const MutablePreparedHead& out) {
  const DF32 d;
  const std::int64_t padded = PaddedHeadDim(task.head_dim);
  const std::int64_t rows = BlockRows(task, block);
  alignas(64) float row[kMaxHeadDim];
  alignas(64) float inverse[kMaxHeadDim];
  for (std::int64_t i = 0; i < padded; ++i) {
    inverse[i] = out.v_scales[i] == 0.0F ? 0.0F : 1.0F / out.v_scales[i];
  }
  std::uint8_t* const packed = out.v8 + block * kBlockN * padded;
  for (std::int64_t n = 0; n < rows; ++n) {
    WidenRow(task.dtype, Row(task.v, head, block * kBlockN + n), task.head_dim, padded, row);
    for (std::int64_t i = 0; i < padded; i += hn::MaxLanes(d)) {
      const VF32 v = hn::LoadU(d, row + i);
      const VF32 scaled =
          hn::Mul(hn::Sub(v, hn::LoadU(d, out.v_means + i)), hn::LoadU(d, inverse + i));
      StoreE4m3(d, RoundToE4m3(d, scaled), packed + n * padded + i);
    }
    for (std::int64_t i = 0; out.v_nonfinite[block] != 0 && i < task.head_dim; ++i) {
      if (!std::isfinite(row[i])) packed[n * padded + i] = kE4m3NaN;
    }
  }
  std::fill(packed + rows * padded, packed + kBlockN * padded, std::uint8_t{0});
}

// The keys of a block transposed to [head_dim, 64], as they are.
void PackHalfKeys(const KvTask& task, std::int64_t head, std::int64_t block,
                  const MutablePreparedHead& out) {
  const std::int64_t rows = BlockRows(task, block);
  std::uint16_t* const packed = out.k16 + block * kBlockN * task.head_dim;
  for (std::int64_t n = 0; n < kBlockN; ++n) {
    if (n < rows) {
      const std::uint16_t* const row = Row(task.k, head, block * kBlockN + n);
      for (std::int64_t i = 0; i < task.head_dim; ++i) packed[i * kBlockN + n] = row[i];
    } else {
      for (std::int64_t i = 0; i < task.head_dim; ++i) packed[i * kBlockN + n] = 0;
    }
  }
}

bool HasNonFiniteValue(const KvTask& task, std::int64_t head, std::int64_t block) {
  const DF32 d;
  const DI32 di;
  const std::int64_t padded = PaddedHeadDim(task.head_dim);
  const std::int64_t rows = BlockRows(task, block);
  alignas(64) float row[kMaxHeadDim];
  VI32 largest = hn::Zero(di);
  for (std::int64_t n = 0; n < rows; ++n) {
    WidenRow(task.dtype, Row(task.v, head, block * kBlockN + n), task.head_dim, padded, row);
    for (std::int64_t i = 0; i < padded; i += hn::MaxLanes(d)) {
      largest = hn::Max(largest, MagnitudeBits(d, hn::LoadU(d, row + i)));
    }
  }
  return hn::GetLane(hn::MaxOfLanes(di, largest)) >= kInfinityBits;
}

void PackBlockImpl(const KvTask& task, std::int64_t head, std::int64_t block,
                   const MutablePreparedHead& out) {
  out.v_nonfinite[block] = HasNonFiniteValue(task, head, block) ? 1 : 0;
  if (task.precision == Precision::kFp16) {
    PackHalfKeys(task, head, block, out);
    return;
  }
  if (task.k_scales.has_value()) {
    PackGivenKeys(task, head, block, out);
  } else {
    PackInt8Keys(task, head, block, out);
  }
  if (task.precision == Precision::kQkInt8PvFp8) PackE4m3Values(task, head, block, out);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace sage
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace sage {

HWY_EXPORT(GatherBlockStatisticsImpl);
HWY_EXPORT(PackBlockImpl);

void GatherBlockStatistics(const KvTask& task, std::int64_t head, std::int64_t block,
                           const MutablePreparedHead& out) {
  HWY_DYNAMIC_DISPATCH(GatherBlockStatisticsImpl)(task, head, block, out);
}

void ReduceHead(const KvTask& task, std::int64_t head, const MutablePreparedHead& out) {
  const std::int64_t padded = PaddedHeadDim(task.head_dim);
  const std::int64_t blocks = CeilDiv(task.length_k, kBlockN);
  const bool has_k = !task.k_scales.has_value();
  const bool has_v = task.precision == Precision::kQkInt8PvFp8;
  alignas(64) float k_sum[kMaxHeadDim] = {};
  alignas(64) float v_sum[kMaxHeadDim] = {};
  alignas(64) float v_min[kMaxHeadDim] = {};
  alignas(64) float v_max[kMaxHeadDim] = {};
  std::fill(v_min, v_min + padded, INFINITY);
  std::fill(v_max, v_max + padded, -INFINITY);
  for (std::int64_t block = 0; block < blocks; ++block) {
    const BlockStatistics statistics(task, block, out);
    for (std::int64_t i = 0; has_k && i < padded; ++i) k_sum[i] += statistics.k_sum[i];
    for (std::int64_t i = 0; has_v && i < padded; ++i) {
      v_sum[i] += statistics.v_sum()[i];
      v_min[i] = std::min(v_min[i], statistics.v_min()[i]);
      v_max[i] = std::max(v_max[i], statistics.v_max()[i]);
    }
  }
  const float inv = blocks == 0 ? 0.0F : 1.0F / static_cast<float>(task.length_k);
  for (std::int64_t i = 0; i < padded; ++i) {
    out.smoothing[i] = has_k               ? k_sum[i] * inv
                       : i < task.head_dim ? task.k_scales->smoothing[head * task.head_dim + i]
                                           : 0.0F;
    if (!has_v) continue;
    // The range less the mean rounds as each element less the mean does, so this is their maximum.
    float mean = v_sum[i] * inv;
    float largest = std::max(v_max[i] - mean, mean - v_min[i]);
    if (!std::isfinite(largest)) {  // the sum overflowed, or no element is finite
      mean = 0.0F;
      largest = v_max[i] < v_min[i] ? 0.0F : std::max(v_max[i], -v_min[i]);
    }
    out.v_means[i] = mean;
    out.v_scales[i] = largest < 0x1p-100F ? 0.0F : largest / kE4m3Max;
  }
}

void PackBlock(const KvTask& task, std::int64_t head, std::int64_t block,
               const MutablePreparedHead& out) {
  if (task.used_blocks != nullptr && ((task.used_blocks[block / 8] >> (block % 8)) & 1) == 0) {
    return;  // nobody reads it
  }
  HWY_DYNAMIC_DISPATCH(PackBlockImpl)(task, head, block, out);
}

}  // namespace sage
#endif  // HWY_ONCE
