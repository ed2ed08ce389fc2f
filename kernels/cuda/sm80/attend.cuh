// Block-sparse attention of many tasks with mma.sync, for every GPU from sm_80 on.
//
//   o = softmax(scale * q k^T, masked) v, by online softmax over listed key blocks
//
// Source: FlashAttention-2 (Dao, 2023) for the loop, SageAttention (Zhang et al., 2024) for INT8
// scores with smoothed K. One work item is a tile of 128 query rows of one head; four warps take 32
// rows each, so that every fragment of K and V read from shared memory feeds two MMAs:
//
//              key block i            channels
//   warp 0   [32 x 64 scores]  ->  [32 x head_dim]    K: ldmatrix, V: ldmatrix.trans
//   warp 1   [32 x 64 scores]  ->  [32 x head_dim]    scores, P and the sums stay in registers
//   warp 2   ...
//   warp 3   ...
//
// All warps fetch blocks by cp.async into a ring of stages, one barrier a block. The grid is
// persistent: thread blocks draw items from an atomic counter, longest first. What an item computes
// depends on nothing but its own task, so its bits do not either.
#ifndef SAGE_KERNELS_CUDA_SM80_ATTEND_CUH_
#define SAGE_KERNELS_CUDA_SM80_ATTEND_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device_task.h"
#include "kernels/cuda/e4m3_order.cuh"
#include "kernels/cuda/ptx/cp_async.cuh"
#include "kernels/cuda/ptx/ldmatrix.cuh"
#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/ptx/mma.cuh"
#include "kernels/cuda/sage1.cuh"
#include "kernels/cuda/sm80/attend_shape.h"

namespace sage::cuda::sm80 {

inline constexpr int kWarpRows = kTileRows / kWarps;  // two fragments of 16 rows
inline constexpr int kFragmentRows = 16;
inline constexpr int kFragments = kWarpRows / kFragmentRows;

inline constexpr float kNegativeInfinity = -__builtin_huge_valf();
inline constexpr float kLog2E = 1.4426950408889634F;
inline constexpr float kLn2 = 0.6931471805599453F;
inline constexpr float kLog2E4m3Max = 8.807354922057604F;  // of 448

// INT8 sums start at the bits of 12582912.0f = 1.5 * 2^23, so that the bits of a sum s read as the
// float 12582912 + s: exact for |s| < 2^22, and 127 * 127 * 128 is less.
inline constexpr int kScoreBiasBits = 0x4B400000;
inline constexpr float kScoreBias = 12582912.0F;

// A score unit (log2) above which the bias would cost accuracy: the product with 12582912 is then
// rounded to 1/32 or worse.
inline constexpr float kLargestFoldedUnit = 0.0625F;
// A maximum (log2) above which fma(score, unit, -maximum) may miss 0 by more than 1/64.
inline constexpr float kLargestFoldedMax = 262144.0F;

inline constexpr int kBadKeySlots = 4;

// Tile of bytes in shared memory, rows of 64, 128 or 256 bytes, in chunks of 16 that are swizzled
// so that the eight rows of an 8x8 matrix lie in different banks.
template <int kRowBytes>
struct SwizzledTile {
  static_assert(kRowBytes == 64 || kRowBytes == 128 || kRowBytes == 256);
  static constexpr int kChunks = kRowBytes / 16;

  // What the chunk index of a row is combined with, by exclusive or.
  static __device__ __forceinline__ std::uint32_t Twist(std::uint32_t row) {
    return kRowBytes == 64 ? (row >> 1) & 3 : row & 7;
  }
  static __device__ __forceinline__ std::uint32_t Offset(std::uint32_t row, std::uint32_t chunk) {
    return row * kRowBytes + ((chunk ^ Twist(row)) << 4);
  }
  // The address 2 * step chunks after one of chunk 0 or 1, in a tile aligned to 128 bytes.
  static __device__ __forceinline__ std::uint32_t Step(std::uint32_t address, int step) {
    return (address ^ (step % 4 << 5)) + step / 4 * 128;
  }
};

// What a thread block knows of its work item. Lies in shared memory, for the sake of registers;
// what goes together is read together.
struct alignas(16) TileContext {
  const std::uint8_t* k;
  const std::uint8_t* v;
  std::uint32_t k_row_stride_bytes;
  std::uint32_t v_row_stride_bytes;
  std::int32_t length_k;
  std::int32_t head_dim;
  const float* k_scales;
  const std::int32_t* list;  // of key blocks: [0, full) whole, the rest of [0, total) partial
  const DeviceTask* task;
  const std::uint8_t* q;
  const float* smoothing;
  std::int32_t full;
  std::int32_t total;
  std::int32_t unpadded;  // entries [0, unpadded) are copied as they are, others may need zeros
  std::int32_t head;
  std::int32_t first_row;
  std::int32_t diagonal;  // row r of the tile sees keys [0, min(r + diagonal, length_k))
};

template <typename Policy>
struct SharedStorage {
  struct Stage {
    alignas(128) std::uint8_t k[kBlockKeys * Policy::kScoreRowBytes];
    alignas(128) std::uint8_t v[Policy::kValueTileBytes];
  };
  Stage stages[Policy::kStages];
  // Q of the whole tile. Where warps keep it in registers it only passes through the last stage, to
  // which no block comes before the mainloop.
  alignas(128) std::uint8_t own_q[Policy::kOwnQueryBytes];
  float score_unit[kTileRows];  // log2 units of a raw score, but for the scale of K
  float k_scale[Policy::kStages];
  // Keys of a partial block whose row of V is not finite, a bit each. Block i uses slot i % 4: it
  // is cleared a barrier before it is written again, whatever the stages.
  std::uint32_t bad_keys[kBadKeySlots][2];
  std::uint32_t next_item;
  TileContext context;

  __device__ __forceinline__ std::uint8_t* q() {
    static_assert(sizeof(Stage) >= kTileRows * Policy::kScoreRowBytes ||
                  !Policy::kQueriesInRegisters);
    return Policy::kQueriesInRegisters ? stages[Policy::kStages - 1].k : own_q;
  }
};

template <typename Policy>
__device__ __forceinline__ TileContext MakeContext(const WorkTable& table,
                                                   std::uint32_t item_index) {
  const WorkItem item = table.items[item_index];
  const DeviceTask& task = table.tasks[item.task];
  const ListRow row = table.rows[item.row];
  const std::int64_t head_kv = item.head / task.group_size;
  TileContext context;
  context.task = &task;
  context.list = table.lists + task.list_begin +
                 static_cast<std::int64_t>(item.row - task.row_begin) * task.blocks_k;
  context.head = item.head;
  context.first_row = item.tile * kTileRows;
  context.q = task.q.data + item.head * task.q.head_stride_bytes +
              context.first_row * task.q.row_stride_bytes;
  context.k = task.k.data + head_kv * task.k.head_stride_bytes;
  context.v = task.v.data + head_kv * task.v.head_stride_bytes;
  context.k_scales = task.k_scales + head_kv * task.blocks_k;
  context.smoothing = task.smoothing + head_kv * Policy::kHeadDim;
  context.k_row_stride_bytes = static_cast<std::uint32_t>(task.k.row_stride_bytes);
  context.v_row_stride_bytes = static_cast<std::uint32_t>(task.v.row_stride_bytes);
  context.full = row.full;
  context.total = row.total;
  context.unpadded = task.head_dim == Policy::kHeadDim ? row.full : 0;
  context.length_k = task.length_k;
  context.head_dim = task.head_dim;
  context.diagonal = static_cast<std::int32_t>(
      max(min(context.first_row + task.diagonal, static_cast<std::int64_t>(task.length_k)),
          static_cast<std::int64_t>(-kTileRows)));
  return context;
}

// Where the lse of a row of the tile lies.
__device__ __forceinline__ std::int64_t LseIndex(const TileContext& context, int row) {
  return static_cast<std::int64_t>(context.head) * context.task->q_rows + context.first_row + row;
}

// Copies rows [first_row, first_row + kRows) of a 16-bit tensor into a tile. With kWhole all of
// them exist and head_dim is the tile's; else rows at or past `rows` and channels past head_dim are
// zeros.
template <int kRows, int kRowBytes, bool kWhole>
__device__ __forceinline__ void CopyRows(std::uint32_t smem, const std::uint8_t* gmem,
                                         std::uint32_t row_stride_bytes, std::int32_t first_row,
                                         std::int32_t rows, int head_dim) {
  using Tile = SwizzledTile<kRowBytes>;
  constexpr int kRowStep = kThreads / Tile::kChunks;
  const std::uint32_t thread = ptx::ThreadIndex();
  const std::uint32_t chunk = thread % Tile::kChunks;
  const std::uint32_t thread_row = thread / Tile::kChunks;
  // Rows of a thread are a multiple of 8 apart: the swizzle is the same for all.
  const std::uint32_t target = smem + Tile::Offset(thread_row, chunk);
  const std::uint8_t* source =
      gmem + static_cast<std::uint64_t>(first_row + thread_row) * row_stride_bytes + chunk * 16;
  const std::uint32_t step_bytes = kRowStep * row_stride_bytes;
  if constexpr (kWhole) {
#pragma unroll
    for (int i = 0; i < kRows / kRowStep; ++i) {
      ptx::CopyAsync16(target + i * kRowStep * kRowBytes, source);
      source += step_bytes;
    }
  } else {
    const bool in_head = static_cast<int>(chunk) * 8 < head_dim;
#pragma unroll 1
    for (int i = 0; i < kRows / kRowStep; ++i) {
      const std::int32_t row = first_row + static_cast<std::int32_t>(thread_row) + i * kRowStep;
      const bool exists = in_head && row < rows;
      ptx::CopyAsync16OrZeros(target + i * kRowStep * kRowBytes, exists ? source : gmem, exists);
      source += step_bytes;
    }
  }
}

// What the copy of a block needs of the context. Read as a whole, and ahead of its use: one wait
// for shared memory instead of one a field.
template <typename Policy>
struct BlockSource {
  const std::uint8_t* k;
  const std::uint8_t* v;
  const float* k_scales;
  std::uint32_t k_row_stride_bytes;
  std::uint32_t v_row_stride_bytes;

  __device__ __forceinline__ void Read(const TileContext& context) {
    k = context.k;
    v = context.v;
    k_scales = context.k_scales;
    k_row_stride_bytes = context.k_row_stride_bytes;
    v_row_stride_bytes = context.v_row_stride_bytes;
  }
};

// Copies a prepared tile of kBytes, rows of kRowBytes that follow each other.
template <int kBytes, int kRowBytes>
__device__ __forceinline__ void CopyTile(std::uint32_t smem, const std::uint8_t* gmem) {
  using Tile = SwizzledTile<kRowBytes>;
  const std::uint32_t thread = ptx::ThreadIndex();
  const std::uint32_t target = smem + Tile::Offset(thread / Tile::kChunks, thread % Tile::kChunks);
  const std::uint8_t* const source = gmem + thread * 16;
#pragma unroll
  for (int i = 0; i < kBytes / (kThreads * 16); ++i) {
    ptx::CopyAsync16(target + i * kThreads * 16, source + i * kThreads * 16);
  }
}

// Starts the copy of key block `block` into `stage`. kWhole as for CopyRows().
template <bool kWhole, typename Policy>
__device__ __forceinline__ void CopyBlock(SharedStorage<Policy>& storage,
                                          const BlockSource<Policy>& source, int stage, int block) {
  const std::int32_t length_k = kWhole ? 0 : storage.context.length_k;
  const std::int32_t head_dim = kWhole ? 0 : storage.context.head_dim;
  const std::uint32_t smem_k = __cvta_generic_to_shared(storage.stages[stage].k);
  const std::uint32_t smem_v = __cvta_generic_to_shared(storage.stages[stage].v);
  if constexpr (Policy::kInt8Scores) {
    constexpr int kTileBytes = kBlockKeys * Policy::kScoreRowBytes;
    CopyTile<kTileBytes, Policy::kScoreRowBytes>(
        smem_k, source.k + static_cast<std::uint64_t>(block) * kTileBytes);
    if (threadIdx.x == 0) {
      ptx::CopyAsync4(__cvta_generic_to_shared(&storage.k_scale[stage]), source.k_scales + block);
    }
  } else {
    CopyRows<kBlockKeys, Policy::kScoreRowBytes, kWhole>(
        smem_k, source.k, source.k_row_stride_bytes, block * kBlockKeys, length_k, head_dim);
  }
  if constexpr (Policy::kE4m3Values) {
    CopyTile<Policy::kValueTileBytes, Policy::kValueRowBytes>(
        smem_v, source.v + static_cast<std::uint64_t>(block) * Policy::kValueTileBytes);
  } else {
    CopyRows<kBlockKeys, Policy::kValueRowBytes, kWhole>(
        smem_v, source.v, source.v_row_stride_bytes, block * kBlockKeys, length_k, head_dim);
  }
}

// Quantises the 32 query rows of this warp into shared memory, a scale a row; for the lse of
// unsmoothed scores also q . c. Eight lanes share a row.
template <typename Policy>
__device__ __forceinline__ void QuantizeQueries(SharedStorage<Policy>& storage) {
  using Tile = SwizzledTile<Policy::kScoreRowBytes>;
  const int thread = ptx::ThreadIndex();
  constexpr int kLanesPerRow = 8;
  constexpr int kChannels = Policy::kHeadDim / kLanesPerRow;  // of a lane: 8 or 16
  constexpr int kVectors = kChannels / 8;
  constexpr int kRowsAtOnce = 32 / kLanesPerRow;
  const int warp_row = thread / 32 * kWarpRows;
  const int part = thread % kLanesPerRow;
  constexpr int kTurns = kWarpRows / kRowsAtOnce;
  const TileContext& context = storage.context;
  const DeviceTask& task = *context.task;
  const int first_row = warp_row + thread % 32 / kLanesPerRow;
  uint4 words[kTurns][kVectors];  // everything is on its way before the first is looked at
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int row = first_row + i * kRowsAtOnce;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      words[i][j] = make_uint4(0, 0, 0, 0);
      const int channel = part * kChannels + j * 8;
      if (context.first_row + row < task.rows_valid && channel < context.head_dim) {
        words[i][j] = __ldg(reinterpret_cast<const uint4*>(
            context.q + row * task.q.row_stride_bytes + channel * 2));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int row = first_row + i * kRowsAtOnce;
    float2 values[kChannels / 2];
    std::uint32_t max_bits = 0;
    float dot = 0.0F;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const std::uint32_t pairs[4] = {words[i][j].x, words[i][j].y, words[i][j].z, words[i][j].w};
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const float2 pair = Widen<typename Policy::Element>(pairs[p]);
        values[j * 4 + p] = pair;
        max_bits = max(max_bits, max(MagnitudeBits(pair.x), MagnitudeBits(pair.y)));
      }
    }
    if (task.lse != nullptr) {
#pragma unroll
      for (int p = 0; p < kChannels / 2; ++p) {
        const float2 c =
            __ldg(reinterpret_cast<const float2*>(context.smoothing + part * kChannels) + p);
        dot = fmaf(values[p].x, c.x, dot);
        dot = fmaf(values[p].y, c.y, dot);
      }
    }
#pragma unroll
    for (int lane = 1; lane < kLanesPerRow; lane *= 2) {
      max_bits = max(max_bits, __shfl_xor_sync(0xffffffffU, max_bits, lane));
      dot += __shfl_xor_sync(0xffffffffU, dot, lane);
    }
    const GroupScale group = MakeGroupScale(max_bits);
    std::uint32_t bytes[kChannels / 4];
#pragma unroll
    for (int w = 0; w < kChannels / 4; ++w) {
      bytes[w] = QuantizeWord(values[2 * w].x, values[2 * w].y, values[2 * w + 1].x,
                              values[2 * w + 1].y, group.factor);
    }
    if constexpr (kChannels == 16) {
      *reinterpret_cast<uint4*>(storage.q() + Tile::Offset(row, part)) =
          make_uint4(bytes[0], bytes[1], bytes[2], bytes[3]);
    } else {
      *reinterpret_cast<uint2*>(storage.q() + Tile::Offset(row, part / 2) + part % 2 * 8) =
          make_uint2(bytes[0], bytes[1]);
    }
    if (part == 0) {
      storage.score_unit[row] = task.softmax_scale * kLog2E * group.scale;
      // The row's lse is to have this added in the end; until then it waits there.
      if (task.lse != nullptr && context.first_row + row < task.q_rows) {
        task.lse[LseIndex(context, row)] = task.softmax_scale * dot;
      }
    }
  }
}

// Non-finite values of a partial block, among those that this thread copied, become 0 and their key
// is marked: p = 0 of a row that cannot see the key would turn them into NaN.
template <typename Policy>
__device__ __forceinline__ void ContainBadValues(SharedStorage<Policy>& storage, int stage, int i) {
  using Tile = SwizzledTile<Policy::kValueRowBytes>;
  constexpr int kRowStep = kThreads / Tile::kChunks;
  const std::uint32_t thread = ptx::ThreadIndex();
  const std::uint32_t chunk = thread % Tile::kChunks;
  const std::uint32_t first = thread / Tile::kChunks;
  std::uint8_t* const base = storage.stages[stage].v + Tile::Offset(first, chunk);
  std::uint32_t* const bad_keys = storage.bad_keys[i % kBadKeySlots];
#pragma unroll 1
  for (int row = 0; row < Policy::kValueTileBytes / Policy::kValueRowBytes; row += kRowStep) {
    std::uint32_t* const words =
        reinterpret_cast<std::uint32_t*>(base + row * Policy::kValueRowBytes);
    if constexpr (Policy::kE4m3Values) {
      // A row is a channel, a chunk 16 keys of it.
      for (int w = 0; w < 4; ++w) {
        const std::uint32_t bad = __vcmpeq4(words[w] & 0x7f7f7f7fU, 0x7f7f7f7fU);
        if (bad == 0) continue;
        words[w] &= ~bad;
        for (int e = 0; e < 4; ++e) {
          if ((bad >> (8 * e) & 1) == 0) continue;
          const std::uint32_t key = chunk * 16 + KeyOfE4m3Slot(w * 4 + e);
          atomicOr(&bad_keys[key / 32], 1U << (key % 32));
        }
      }
    } else {
      constexpr std::uint32_t kExponent =
          std::is_same_v<typename Policy::Element, __half> ? 0x7c00U : 0x7f80U;
      bool bad = false;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        bad |= (words[w] & kExponent) == kExponent;
        bad |= (words[w] >> 16 & kExponent) == kExponent;
      }
      if (bad) {
        const std::uint32_t key = first + row;
        *reinterpret_cast<uint4*>(words) = make_uint4(0, 0, 0, 0);
        atomicOr(&bad_keys[key / 32], 1U << (key % 32));
      }
    }
  }
}

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
// The same over the four threads of a row.
__device__ __forceinline__ float RowMax(float thread_max) {
  const float pair = fmaxf(thread_max, __shfl_xor_sync(0xffffffffU, thread_max, 1));
  return fmaxf(pair, __shfl_xor_sync(0xffffffffU, pair, 2));
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

  // Divides by the sums and writes the 32 rows, and their lse.
  __device__ __forceinline__ void Write() {
    const int thread = ptx::ThreadIndex();
    const TileContext& context = storage_.context;
    const DeviceTask& task = *context.task;
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = sum_[f][half];
        if constexpr (!Policy::kE4m3Values) {
          sum += __shfl_xor_sync(0xffffffffU, sum, 1);
          sum += __shfl_xor_sync(0xffffffffU, sum, 2);
        }
        const int tile_row = TileRow(thread, f, half);
        const std::int64_t row = context.first_row + tile_row;
        if (row >= task.q_rows) continue;
        const bool empty = sum == 0.0F || row >= task.rows_valid;
        const float inverse = empty ? 0.0F : 1.0F / sum;
        std::uint8_t* const out = task.out.data + context.head * task.out.head_stride_bytes +
                                  row * task.out.row_stride_bytes;
#pragma unroll
        for (int n = 0; n < kChannelTiles; ++n) {
          const int channel = n * 8 + thread % 4 * 2;
          if (n * 8 >= context.head_dim) break;
          float low = empty ? 0.0F : out_[f][n][2 * half] * inverse;
          float high = empty ? 0.0F : out_[f][n][2 * half + 1] * inverse;
          if (Policy::kE4m3Values && !empty) {
            const std::int64_t index =
                static_cast<std::int64_t>(context.head / task.group_size) * Policy::kHeadDim +
                channel;
            const float2 scale = __ldg(reinterpret_cast<const float2*>(task.v_scales + index));
            const float2 mean = __ldg(reinterpret_cast<const float2*>(task.v_means + index));
            low = fmaf(low, scale.x, mean.x);
            high = fmaf(high, scale.y, mean.y);
          }
          WritePair(out, task.output_type, channel, low, high);
        }
        if (task.lse != nullptr && thread % 4 == 0) {
          float& lse = task.lse[LseIndex(context, tile_row)];
          const float smoothing = Policy::kInt8Scores ? lse : 0.0F;
          const float log2_sum = max_[f][half] + log2f(sum) - Policy::kProbabilityShift;
          lse = empty ? kNegativeInfinity : kLn2 * log2_sum + smoothing;
        }
      }
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
    const std::uint64_t bad_block = storage_.bad_keys[i % kBadKeySlots][1];
    const std::uint64_t bad_keys =
        (bad_block << 32 | storage_.bad_keys[i % kBadKeySlots][0]) >> (step * kKeys);
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
        const std::uint64_t seen = visible == 64 ? ~0ULL : (1ULL << visible) - 1;
        if ((bad_keys & seen) != 0) sum_[f][half] = __uint_as_float(kNaNBits);
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

  static __device__ __forceinline__ void WritePair(std::uint8_t* row, ElementType type, int channel,
                                                   float low, float high) {
    if (type == ElementType::kFloat32) {
      *reinterpret_cast<float2*>(row + channel * 4) = make_float2(low, high);
    } else if (type == ElementType::kFloat16) {
      *reinterpret_cast<std::uint32_t*>(row + channel * 2) = ptx::Pack<__half>(low, high);
    } else {
      *reinterpret_cast<std::uint32_t*>(row + channel * 2) = ptx::Pack<__nv_bfloat16>(low, high);
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

// Entry `i` of the list of key blocks, or any other where there is none. Asked for a block's work
// before it is needed.
__device__ __forceinline__ int ListedBlock(const TileContext& context, int i) {
  return __ldg(context.list + min(i, context.total - 1));
}

// How far the mainloop has come: entry `i` of the list of blocks lies in `stage`, and the next to
// be copied is `next_block`.
struct Progress {
  int i = 0;
  int stage = 0;
  int next_block = 0;
};

// Entries [at.i, end) of the list of blocks, all whole or all partial.
template <bool kPartial, typename Policy>
__device__ __forceinline__ void AddBlocks(SharedStorage<Policy>& storage, WarpTile<Policy>& warp,
                                          int end, Progress& at) {
  constexpr int kAhead = Policy::kStages - 1;
  // Masking takes registers: half of the keys at a time.
  constexpr int kKeys = kPartial ? 32 : Policy::kStepKeys;
  for (; at.i < end; ++at.i) {
    ptx::WaitForCopies<kAhead - 1>();
    if constexpr (kPartial) ContainBadValues(storage, at.stage, at.i);
    __syncthreads();
    if constexpr (kPartial) {
      if (threadIdx.x < 2) {
        storage.bad_keys[(at.i + kBadKeySlots - 1) % kBadKeySlots][threadIdx.x] = 0;
      }
    }
    BlockSource<Policy> source;
    if constexpr (!Policy::kShortOfRegisters) source.Read(storage.context);
#pragma unroll 1
    for (int step = 0; step < kBlockKeys / kKeys; ++step) {
      Scores<Policy, kKeys> scores;
      warp.template MultiplyKeys<kKeys>(at.stage, step, scores);
      if (step == 0) {
        // Issued under the tensor cores' work, into the stage of the block before this one.
        if constexpr (Policy::kShortOfRegisters) source.Read(storage.context);
        const int target = at.stage == 0 ? kAhead : at.stage - 1;
        if (!kPartial && at.i + kAhead < storage.context.unpadded) {
          CopyBlock<true>(storage, source, target, at.next_block);
        } else if (at.i + kAhead < storage.context.total) {
          CopyBlock<false>(storage, source, target, at.next_block);
        }
        ptx::CommitCopies();
        at.next_block = ListedBlock(storage.context, at.i + kAhead + 1);
      }
      warp.template AddStep<kPartial, kKeys>(at.stage, step, at.i, scores);
    }
    at.stage = at.stage == kAhead ? 0 : at.stage + 1;
  }
}

template <typename Policy>
__device__ __forceinline__ void AttendItem(SharedStorage<Policy>& storage) {
  constexpr int kAhead = Policy::kStages - 1;
  const TileContext& context = storage.context;

  // Prologue: the first blocks are on their way while Q is quantised.
  if constexpr (!Policy::kInt8Scores) {
    CopyRows<kTileRows, Policy::kScoreRowBytes, /*kWhole=*/false>(
        __cvta_generic_to_shared(storage.q()), context.q,
        static_cast<std::uint32_t>(context.task->q.row_stride_bytes), 0,
        context.task->rows_valid - context.first_row, context.head_dim);
    storage.score_unit[threadIdx.x] = context.task->softmax_scale * kLog2E;
  }
  BlockSource<Policy> source;
  source.Read(context);
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (i < context.total) CopyBlock<false>(storage, source, i, ListedBlock(context, i));
    ptx::CommitCopies();
  }
  Progress at;
  if (context.total > 0) at.next_block = ListedBlock(context, kAhead);
  if constexpr (Policy::kInt8Scores) QuantizeQueries(storage);
  WarpTile<Policy> warp(storage);
  if constexpr (Policy::kInt8Scores) {
    __syncwarp();
    warp.LoadQueries();
  }

  // Mainloop.
  AddBlocks<false>(storage, warp, context.full, at);
  AddBlocks<true>(storage, warp, context.total, at);

  // Epilogue.
  warp.Write();
}

template <typename Policy>
__global__ void __launch_bounds__(kThreads, Policy::kMinBlocks) Attend(const WorkTable table) {
  extern __shared__ __align__(128) std::uint8_t smem[];
  auto& storage = *reinterpret_cast<SharedStorage<Policy>*>(smem);
  if (threadIdx.x == 0) storage.next_item = atomicAdd(table.next_item, 1U);
  __syncthreads();
  std::uint32_t index = storage.next_item;
  while (index < table.num_items) {
    __syncthreads();  // everybody has read next_item
    if (threadIdx.x == 0) {
      storage.context = MakeContext<Policy>(table, index);
      storage.next_item = atomicAdd(table.next_item, 1U);
    }
    if (threadIdx.x < kBadKeySlots * 2) storage.bad_keys[threadIdx.x / 2][threadIdx.x % 2] = 0;
    __syncthreads();
    AttendItem(storage);
    ptx::WaitForCopies<0>();
    __syncthreads();  // the stages are free again
    index = storage.next_item;
  }
}

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

  // The running maximum may lag behind the true one by this much (log2) before sums are rescaled.
  // Probabilities are 2^shift times their value and stay below 2^8, far inside FP16, or reach 448,
  // the end of e4m3.
  static constexpr float kMaxLag = kE4m3Values ? 3.0F : 8.0F;
  static constexpr float kProbabilityShift = kE4m3Values ? kLog2E4m3Max - kMaxLag : 0.0F;
};

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_ATTEND_CUH_
