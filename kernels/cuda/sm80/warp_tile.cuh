// What one warp computes of a tile: scores, online softmax, sums, and the rows it writes.
#ifndef SAGE_KERNELS_CUDA_SM80_WARP_TILE_CUH_
#define SAGE_KERNELS_CUDA_SM80_WARP_TILE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/bad_values.cuh"
#include "kernels/cuda/device_task.h"
#include "kernels/cuda/ptx/ldmatrix.cuh"
#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/ptx/mma.cuh"
#include "kernels/cuda/sage1.cuh"
#include "kernels/cuda/sm80/attend_shape.h"
#include "kernels/cuda/sm80/policy.cuh"
#include "kernels/cuda/sm80/storage.cuh"
#include "kernels/cuda/sm80/store_vector.cuh"
#include "kernels/cuda/softmax.cuh"
#include "kernels/cuda/swizzled_tile.cuh"

namespace sage::cuda::sm80 {

// Largest over the four threads of a row.
__device__ __forceinline__ float RowMax(float thread_max) {
  const float pair = fmaxf(thread_max, __shfl_xor_sync(0xffffffffU, thread_max, 1));
  return fmaxf(pair, __shfl_xor_sync(0xffffffffU, pair, 2));
}

// A score unit (log2) above which the bias would cost accuracy: the product with 12582912 is then
// rounded to 1/32 or worse.
inline constexpr float kLargestFoldedUnit = 0.0625F;

// Fragments of one warp: scores of kKeys keys by 32 rows.
template <typename Policy, int kKeys>
using Scores = typename Policy::Score[kFragments][kKeys / 8][4];

__device__ __forceinline__ float AsFloat(int score) { return __int_as_float(score); }
__device__ __forceinline__ float AsFloat(float score) { return score; }
__device__ __forceinline__ void Set(int& score, float value) { score = __float_as_int(value); }
__device__ __forceinline__ void Set(float& score, float value) { score = value; }

// Largest of the scores that a thread has of a row. The bits of biased INT8 scores, which are
// positive floats, and of -inf order like integers.
template <int kCount>
__device__ __forceinline__ float ThreadMax(const int (&scores)[kCount][4], int half) {
  int result = max(scores[0][2 * half], scores[0][2 * half + 1]);
#pragma unroll
  for (int j = 1; j < kCount; ++j) {
    result = __vimax3_s32(result, scores[j][2 * half], scores[j][2 * half + 1]);
  }
  return __int_as_float(result);
}
template <int kCount>
__device__ __forceinline__ float ThreadMax(const float (&scores)[kCount][4], int half) {
  float result = kNegativeInfinity;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    result = fmaxf(result, fmaxf(scores[j][2 * half], scores[j][2 * half + 1]));
  }
  return result;
}

// The part of an item that one warp computes: state of the online softmax and its steps.
template <typename Policy>
class WarpTile {
 public:
  static constexpr int kChannelTiles = Policy::kHeadDim / 8;  // output fragments
  static constexpr int kScoreSteps = Policy::kScoreRowBytes / 32;
  using ScoreTile = SwizzledTile<Policy::kScoreRowBytes>;
  using ValueTile = SwizzledTile<Policy::kValueRowBytes>;

  explicit __device__ __forceinline__ WarpTile(SharedStorage<Policy>& storage) : storage_(storage) {
    const int matrix = threadIdx.x % 32 / 8;
    const int row = threadIdx.x % 8;
    offsets_ = ScoreTile::Offset((matrix & 1) * 8 + row, matrix >> 1) >> 4 |
               ScoreTile::Offset((matrix >> 1) * 8 + row, matrix & 1) >> 4 << 10 |
               (Policy::kE4m3Values ? ValueTile::Offset((matrix >> 1) * 8 + row, matrix & 1)
                                    : ValueTile::Offset((matrix & 1) * 8 + row, matrix >> 1)) >>
                   4 << 20;
    ptx::Keep(offsets_);
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        max_[f][half] = kNegativeInfinity;
        sum_[f][half] = 0.0F;
      }
#pragma unroll
      for (int n = 0; n < kChannelTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out_[f][n][e] = 0.0F;
      }
    }
  }

  // Reads what the prologue left in shared memory.
  __device__ __forceinline__ void LoadQueries() {
    if constexpr (Policy::kQueriesInRegisters) {
      const std::uint32_t smem_q = __cvta_generic_to_shared(storage_.q());
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int step = 0; step < kScoreSteps; ++step) {
          ptx::LoadMatrices(q_[f][step], ScoreTile::Step(smem_q + q_offset(), step) +
                                             f * kFragmentRows * Policy::kScoreRowBytes);
        }
      }
    }
  }

  // scores = q k^T for keys [step * kKeys, + kKeys) of the block in `stage`.
  template <int kKeys>
  __device__ __forceinline__ void MultiplyKeys(int stage, int step,
                                               Scores<Policy, kKeys>& scores) const {
    const std::uint32_t smem_q = __cvta_generic_to_shared(storage_.q());
    const std::uint32_t smem_k =
        __cvta_generic_to_shared(storage_.stages[stage].k) + step * kKeys * Policy::kScoreRowBytes;
#pragma unroll
    for (int d = 0; d < kScoreSteps; ++d) {
      std::uint32_t a[kFragments][4];
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        if constexpr (Policy::kQueriesInRegisters) {
#pragma unroll
          for (int e = 0; e < 4; ++e) a[f][e] = q_[f][d][e];
        } else {
          ptx::LoadMatrices(a[f], ScoreTile::Step(smem_q + q_offset(), d) +
                                      f * kFragmentRows * Policy::kScoreRowBytes);
        }
      }
#pragma unroll
      for (int pair = 0; pair < kKeys / 16; ++pair) {
        std::uint32_t b[4];  // keys 16 pair .. + 15, 32 bytes of channels
        ptx::LoadMatrices(
            b, ScoreTile::Step(smem_k + k_offset(), d) + pair * 16 * Policy::kScoreRowBytes);
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
          MultiplyOne(scores[f][2 * pair], a[f], b[0], b[1], d == 0);
          MultiplyOne(scores[f][2 * pair + 1], a[f], b[2], b[3], d == 0);
        }
      }
    }
  }

  // Turns scores into probabilities, rescaling what was summed where the maximum has moved, and
  // adds their products with V. `first_key` is that of the step, within the entry.
  template <bool kPartial, int kKeys>
  __device__ __forceinline__ void AddStep(int stage, int step, int i,
                                          Scores<Policy, kKeys>& scores) {
    if constexpr (kPartial) MaskScores<kKeys>(step, i, scores);
    const float k_scale = Policy::kInt8Scores ? storage_.k_scale[stage] : 1.0F;
    float unit[kFragments][2];
    float offset[kFragments][2];
    float step_max[kFragments][2];  // of this thread's scores
    float largest_lead = kNegativeInfinity;
    float largest_bound = 0.0F;
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        unit[f][half] = storage_.score_unit[TileRow(threadIdx.x, f, half)] * k_scale;
        const float raw = ThreadMax(scores[f], half) - Policy::kBias;
        step_max[f][half] = __fmul_rn(raw, unit[f][half]);
        if (kPartial && raw == kNegativeInfinity) step_max[f][half] = raw;  // for a unit of 0
        largest_lead = fmaxf(largest_lead, step_max[f][half] - max_[f][half]);
        largest_bound =
            fmaxf(largest_bound, Policy::kInt8Scores ? unit[f][half] : fabsf(step_max[f][half]));
      }
    }
    constexpr float kBound = Policy::kInt8Scores ? kLargestFoldedUnit : kLargestFoldedMax;
    bool rare = kPartial || largest_lead > Policy::kMaxLag || largest_bound > kBound;
    rare = __any_sync(0xffffffffU, rare);
    if (rare) Rescale(step_max);
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        offset[f][half] =
            Policy::kProbabilityShift - fmaf(Policy::kBias, unit[f][half], max_[f][half]);
      }
    }
    if (rare && NeedsExponents<kPartial>(unit)) TakeExponents<kKeys>(scores, unit, offset);

    if constexpr (Policy::kE4m3Values) {
      AddE4m3Products<kKeys>(stage, step, scores, unit, offset);
    } else {
      AddProducts<kKeys>(stage, step, scores, unit, offset);
    }
  }

  // Divides by the sums and writes the 32 rows, and their lse. The stages are free: nobody reads
  // them any more. Rows go through them, 16 at once, so that threads write 16 bytes to neighbouring
  // places.
  __device__ __forceinline__ void Write() {
    constexpr int kRowBytes = Policy::kHeadDim * static_cast<int>(sizeof(float));
    static_assert(sizeof(storage_.stages) >= kWarps * kFragmentRows * kRowBytes);
    const int thread = ptx::ThreadIndex();
    std::uint8_t* const staged = reinterpret_cast<std::uint8_t*>(&storage_.stages) +
                                 thread / 32 * (kFragmentRows * kRowBytes);
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        FinishRow(thread, f, half);
        const int row = half * 8 + thread % 32 / 4;
#pragma unroll
        for (int n = 0; n < kChannelTiles; ++n) {
          const int chunk = 2 * n + thread % 4 / 2;
          *reinterpret_cast<float2*>(staged + row * kRowBytes + (chunk ^ (row & 7)) * 16 +
                                     thread % 2 * 8) =
              make_float2(out_[f][n][2 * half], out_[f][n][2 * half + 1]);
        }
      }
      __syncwarp();
      WriteStaged(thread, thread / 32 * kWarpRows + f * kFragmentRows, staged);
      __syncwarp();
    }
  }

 private:
  static __device__ __forceinline__ int warp_row() { return threadIdx.x / 32 * kWarpRows; }
  __device__ __forceinline__ std::uint32_t q_offset() const {
    return ((offsets_ & 0x3ffU) << 4) + warp_row() * Policy::kScoreRowBytes;
  }
  __device__ __forceinline__ std::uint32_t k_offset() const { return offsets_ >> 6 & 0x3ff0U; }
  __device__ __forceinline__ std::uint32_t v_offset() const { return offsets_ >> 16 & 0x3ff0U; }
  // Row of the tile that a thread holds in half `half` of fragment `f`.
  static __device__ __forceinline__ int TileRow(int thread, int f, int half) {
    return thread / 32 * kWarpRows + f * kFragmentRows + half * 8 + thread % 32 / 4;
  }
  static __device__ __forceinline__ void MultiplyOne(int (&d)[4], const std::uint32_t (&a)[4],
                                                     std::uint32_t b0, std::uint32_t b1,
                                                     bool first) {
    constexpr int kBias[4] = {kScoreBiasBits, kScoreBiasBits, kScoreBiasBits, kScoreBiasBits};
    if (first) {
      ptx::MmaInt8(d, a, b0, b1, kBias);
    } else {
      ptx::MmaInt8(d, a, b0, b1, d);
    }
  }
  static __device__ __forceinline__ void MultiplyOne(float (&d)[4], const std::uint32_t (&a)[4],
                                                     std::uint32_t b0, std::uint32_t b1,
                                                     bool first) {
    constexpr float kZero[4] = {0.0F, 0.0F, 0.0F, 0.0F};
    if (first) {
      ptx::MmaFloat16<typename Policy::Element>(d, a, b0, b1, kZero);
    } else {
      ptx::MmaFloat16<typename Policy::Element>(d, a, b0, b1, d);
    }
  }

  // The probabilities of scores [2 half, 2 half + 1] of a fragment.
  static __device__ __forceinline__ float2 TakePair(const typename Policy::Score (&pair)[4], int f,
                                                    int half, const float (&unit)[kFragments][2],
                                                    const float (&offset)[kFragments][2]) {
    float2 p;
    p.x = ptx::Exp2(fmaf(AsFloat(pair[2 * half]), unit[f][half], offset[f][half]));
    p.y = ptx::Exp2(fmaf(AsFloat(pair[2 * half + 1]), unit[f][half], offset[f][half]));
    return p;
  }

  // out += p v for keys [step * kKeys, + kKeys) of the block in `stage`.
  template <int kKeys>
  __device__ __forceinline__ void AddProducts(int stage, int step,
                                              const Scores<Policy, kKeys>& scores,
                                              const float (&unit)[kFragments][2],
                                              const float (&offset)[kFragments][2]) {
    const std::uint32_t smem_v =
        __cvta_generic_to_shared(storage_.stages[stage].v) + step * kKeys * Policy::kValueRowBytes;
#pragma unroll
    for (int keys = 0; keys < kKeys / 16; ++keys) {
      std::uint32_t p[kFragments][4];
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float2 pair = TakePair(scores[f][2 * keys + e / 2], f, e % 2, unit, offset);
          sum_[f][e % 2] += pair.x + pair.y;
          p[f][e] = ptx::Pack<typename Policy::Element>(pair.x, pair.y);
        }
      }
#pragma unroll
      for (int n = 0; n < kChannelTiles / 2; ++n) {
        std::uint32_t b[4];  // 16 keys, channels 16 n .. + 15
        ptx::LoadMatricesTransposed(
            b, ValueTile::Step(smem_v + v_offset(), n) + keys * 16 * Policy::kValueRowBytes);
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
          ptx::MmaFloat16<typename Policy::Element>(out_[f][2 * n], p[f], b[0], b[1],
                                                    out_[f][2 * n]);
          ptx::MmaFloat16<typename Policy::Element>(out_[f][2 * n + 1], p[f], b[2], b[3],
                                                    out_[f][2 * n + 1]);
        }
      }
    }
  }

  // The same with e4m3: the products of the step are summed apart, in the tensor cores' precision,
  // and then added to `out` (two-level accumulation, SageAttention2). A row's sum is that of its
  // rounded probabilities, by a product with ones: much of the rounding error cancels.
  template <int kKeys>
  __device__ __forceinline__ void AddE4m3Products(int stage, int step,
                                                  const Scores<Policy, kKeys>& scores,
                                                  const float (&unit)[kFragments][2],
                                                  const float (&offset)[kFragments][2]) {
    constexpr int kMmaKeys = 32;
    constexpr int kMmas = kKeys / kMmaKeys;
    std::uint32_t p[kMmas][kFragments][4];
#pragma unroll
    for (int m = 0; m < kMmas; ++m) {
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int tile = 4 * m + e / 2 * 2;
          const float2 first = TakePair(scores[f][tile], f, e % 2, unit, offset);
          const float2 second = TakePair(scores[f][tile + 1], f, e % 2, unit, offset);
          p[m][f][e] = ptx::PackE4m3(first.x, first.y, second.x, second.y);
        }
      }
    }
    constexpr std::uint32_t kOnes = 0x38383838U;
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      float sums[4] = {};
#pragma unroll
      for (int m = 0; m < kMmas; ++m) ptx::MmaE4m3(sums, p[m][f], kOnes, kOnes, sums);
      sum_[f][0] += sums[0];
      sum_[f][1] += sums[2];
    }
    const std::uint32_t smem_v = __cvta_generic_to_shared(storage_.stages[stage].v) + v_offset();
#pragma unroll
    for (int n = 0; n < kChannelTiles / 2; ++n) {
      typename Policy::ValueSums sums[kFragments][2];
#pragma unroll
      for (int m = 0; m < kMmas; ++m) {
        std::uint32_t b[4];  // channels 16 n .. + 15, 32 keys
        ptx::LoadMatrices(
            b, ValueTile::Step(smem_v, step * kMmas + m) + n * 16 * Policy::kValueRowBytes);
#pragma unroll
        for (int f = 0; f < kFragments; ++f) {
          if (m == 0) {
            constexpr typename Policy::ValueSums kZero = {};
            ptx::MmaE4m3(sums[f][0], p[m][f], b[0], b[1], kZero);
            ptx::MmaE4m3(sums[f][1], p[m][f], b[2], b[3], kZero);
          } else {
            ptx::MmaE4m3(sums[f][0], p[m][f], b[0], b[1], sums[f][0]);
            ptx::MmaE4m3(sums[f][1], p[m][f], b[2], b[3], sums[f][1]);
          }
        }
      }
#pragma unroll
      for (int f = 0; f < kFragments; ++f) {
        Add(out_[f][2 * n], sums[f][0]);
        Add(out_[f][2 * n + 1], sums[f][1]);
      }
    }
  }
  static __device__ __forceinline__ void Add(float (&out)[4], const float (&sums)[4]) {
#pragma unroll
    for (int e = 0; e < 4; ++e) out[e] += sums[e];
  }
  static __device__ __forceinline__ void Add(float (&out)[4], const std::uint32_t (&sums)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 pair = Widen<__half>(sums[half]);
      out[2 * half] += pair.x;
      out[2 * half + 1] += pair.y;
    }
  }

  // Scores of keys that a row does not see become -inf. A row that sees a key whose V is not finite
  // becomes NaN, as it would have without ContainBadValues().
  template <int kKeys>
  __device__ __forceinline__ void MaskScores(int step, int i, Scores<Policy, kKeys>& scores) {
    constexpr std::uint32_t kNaNBits = 0x7fc00000U;
    const int thread = ptx::ThreadIndex();
    const TileContext& context = storage_.context;
    const int first_key = __ldg(context.list + i) * kBlockKeys + step * kKeys;
    const int first_bad_key = FirstBadKey(storage_.bad_keys[i % kBadKeySlots]);
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = TileRow(thread, f, half);
        const int end = min(row + context.diagonal, context.length_k) - first_key;
        const int visible = max(0, min(end, kKeys));
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            if (j * 8 + static_cast<int>(thread % 4) * 2 + e >= visible) {
              Set(scores[f][j][2 * half + e], kNegativeInfinity);
            }
          }
        }
        if (first_bad_key < step * kKeys + end) sum_[f][half] = __uint_as_float(kNaNBits);
      }
    }
  }

  // Whether some row of the warp has scores masked, or too large for the common path.
  template <bool kPartial>
  __device__ __forceinline__ bool NeedsExponents(const float (&unit)[kFragments][2]) const {
    bool needed = kPartial;
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        needed |= Policy::kInt8Scores ? unit[f][half] > kLargestFoldedUnit
                                      : fabsf(max_[f][half]) > kLargestFoldedMax;
      }
    }
    return __any_sync(0xffffffffU, needed);
  }

  __device__ __forceinline__ void Rescale(const float (&step_max)[kFragments][2]) {
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      float factor[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float next = fmaxf(max_[f][half], RowMax(step_max[f][half]));
        // A row that has seen nothing yet keeps its zeros: -inf minus -inf is no number.
        factor[half] = next == kNegativeInfinity ? 1.0F : ptx::Exp2(max_[f][half] - next);
        max_[f][half] = next;
        sum_[f][half] *= factor[half];
      }
#pragma unroll
      for (int n = 0; n < kChannelTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out_[f][n][e] *= factor[e / 2];
      }
    }
  }

  // Replaces scores by their exponents (log2, at most the policy's kMaxLag), without the shortcuts
  // of the common path, which masked scores and very large ones do not survive.
  template <int kKeys>
  __device__ __forceinline__ void TakeExponents(Scores<Policy, kKeys>& scores,
                                                float (&unit)[kFragments][2],
                                                float (&offset)[kFragments][2]) const {
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float maximum = max_[f][half] == kNegativeInfinity ? 0.0F : max_[f][half];
#pragma unroll
        for (int j = 0; j < kKeys / 8; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            auto& score = scores[f][j][2 * half + e];
            const float raw = AsFloat(score);
            // Rounded as the maximum was, so that its own element gets exactly 0.
            const float exponent = __fmul_rn(raw - Policy::kBias, unit[f][half]) - maximum;
            // The comparison keeps NaN; fminf would not.
            Set(score, raw == kNegativeInfinity     ? raw
                       : exponent > Policy::kMaxLag ? Policy::kMaxLag
                                                    : exponent);
          }
        }
        unit[f][half] = 1.0F;
        offset[f][half] = Policy::kProbabilityShift;
      }
    }
  }

  // Leaves what the sums of a row are to be multiplied by where its unit was: 0 if it saw nothing.
  // Writes its lse.
  __device__ __forceinline__ void FinishRow(int thread, int f, int half) {
    const TileContext& context = storage_.context;
    const DeviceTask& task = *context.task;
    float sum = sum_[f][half];
    if constexpr (!Policy::kE4m3Values) {
      sum += __shfl_xor_sync(0xffffffffU, sum, 1);
      sum += __shfl_xor_sync(0xffffffffU, sum, 2);
    }
    if (thread % 4 != 0) return;
    const int tile_row = TileRow(thread, f, half);
    const std::int64_t row = context.first_row + tile_row;
    const bool empty = sum == 0.0F || row >= task.rows_valid;
    storage_.score_unit[tile_row] = empty ? 0.0F : 1.0F / sum;
    if (task.lse != nullptr && row < task.q_rows) {
      float& lse = task.lse[LseIndex(context, tile_row)];
      const float smoothing = Policy::kInt8Scores ? lse : 0.0F;
      const float log2_sum = max_[f][half] + log2f(sum) - Policy::kProbabilityShift;
      lse = empty ? kNegativeInfinity : kLn2 * log2_sum + smoothing;
    }
  }

  // Writes 16 rows of the tile, from `first_row` on, from their sums: eight channels a thread.
  __device__ __forceinline__ void WriteStaged(int thread, int first_row,
                                              const std::uint8_t* staged) const {
    constexpr int kVectors = Policy::kHeadDim / 8;
    constexpr int kRowsAtOnce = 32 / kVectors;
    const TileContext& context = storage_.context;
    const DeviceTask& task = *context.task;
    const int vector = thread % kVectors;
    if (vector * 8 >= context.head_dim) return;
    const int rows = min(kFragmentRows, task.q_rows - context.first_row - first_row);
    float scales[8];
    float means[8];
    if constexpr (Policy::kE4m3Values) {
      const std::int64_t index =
          static_cast<std::int64_t>(context.head / task.group_size) * Policy::kHeadDim + vector * 8;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        scales[j] = __ldg(task.v_scales + index + j);
        means[j] = __ldg(task.v_means + index + j);
      }
    }
    std::uint8_t* const out = task.out.data + context.head * task.out.head_stride_bytes +
                              (context.first_row + first_row) * task.out.row_stride_bytes;
    for (int row = thread % 32 / kVectors; row < rows; row += kRowsAtOnce) {
      const std::uint8_t* const sums = staged + row * Policy::kHeadDim * 4;
      const float4 first = *reinterpret_cast<const float4*>(sums + ((2 * vector) ^ (row & 7)) * 16);
      const float4 second =
          *reinterpret_cast<const float4*>(sums + ((2 * vector + 1) ^ (row & 7)) * 16);
      float values[8] = {first.x,  first.y,  first.z,  first.w,
                         second.x, second.y, second.z, second.w};
      const float inverse = storage_.score_unit[first_row + row];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        // The sums of a row that saw nothing may be no numbers.
        values[j] = inverse == 0.0F       ? 0.0F
                    : Policy::kE4m3Values ? fmaf(values[j] * inverse, scales[j], means[j])
                                          : values[j] * inverse;
      }
      StoreVector(out + row * task.out.row_stride_bytes, vector, task.output_type, values);
    }
  }

  SharedStorage<Policy>& storage_;
  // Where this lane's row and chunk lie in the first fragment of a tile of Q, K and V: three
  // numbers of ten bits, in units of 16 bytes. One register is kept where three would be computed
  // anew.
  std::uint32_t offsets_;
  std::uint32_t q_[kFragments][kScoreSteps][4];
  float max_[kFragments][2];
  float sum_[kFragments][2];  // of what this thread has of a row; of the whole row with e4m3
  float out_[kFragments][kChannelTiles][4];
};

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_WARP_TILE_CUH_
