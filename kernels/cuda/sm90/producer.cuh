// The warps that feed the consumers: a scheduler and one that copies blocks of K and V; those that
// copy queries are in queries.cuh. Each follows the work items at its own pace.
#ifndef SAGE_KERNELS_CUDA_SM90_PRODUCER_CUH_
#define SAGE_KERNELS_CUDA_SM90_PRODUCER_CUH_

#include <cstdint>

#include "kernels/cuda/bad_values.cuh"
#include "kernels/cuda/sm90/storage.cuh"

namespace sage::cuda::sm90 {

// One lane: draws work items and says what they are, the next while one is under way.
template <typename Policy>
__device__ __forceinline__ void Schedule(SharedStorage<Policy>& storage, const WorkTable& table) {
  if (threadIdx.x % 32 != 0) return;
  RingPlace<kContexts> place;
  std::uint32_t item = 0;
  do {
    item = atomicAdd(table.next_item, 1U);
    ptx::Wait(&storage.context_empty[place.index], place.parity ^ 1);
    TileContext& context = storage.contexts[place.index];
    if (item < table.num_items) {
      context = MakeContext<Policy::kHeadDim>(table, item);
    } else {
      context.total = kNoMoreWork;
    }
    ptx::Arrive(&storage.context_full[place.index]);
    place.Advance();
  } while (item < table.num_items);
}

// Where the blocks of an item lie. Read once, ahead of the loop.
template <typename Policy>
struct BlockSource {
  const std::uint8_t* k;
  const std::uint8_t* v;
  const CUtensorMap* k_map;
  const CUtensorMap* v_map;
  int head_kv;

  explicit __device__ __forceinline__ BlockSource(const TileContext& context)
      : k(context.k),
        v(context.v),
        k_map(&context.task->k_map),
        v_map(&context.task->v_map),
        head_kv(context.head / context.task->group_size) {
    if (!Policy::kInt8Scores) ptx::AcquireTensorMap(k_map);
    if (!Policy::kE4m3Values) ptx::AcquireTensorMap(v_map);
  }

  // One lane: starts the copies of block `block` into a stage; they report to `barrier`.
  __device__ __forceinline__ void Copy(SharedStorage<Policy>& storage, int stage, int block,
                                       std::uint64_t* barrier) const {
    ptx::ArriveExpecting(barrier, Policy::kKeyTileBytes + Policy::kValueBytes);
    if constexpr (Policy::kInt8Scores) {
      ptx::CopyBulk(storage.k[stage], k + static_cast<std::int64_t>(block) * Policy::kKeyTileBytes,
                    Policy::kKeyTileBytes, barrier);
    } else {
      CopyColumns(storage.k[stage], k_map, block, barrier);
    }
    if constexpr (Policy::kE4m3Values) {
      ptx::CopyBulk(storage.v[stage], v + static_cast<std::int64_t>(block) * Policy::kValueBytes,
                    Policy::kValueBytes, barrier);
    } else {
      CopyColumns(storage.v[stage], v_map, block, barrier);
    }
  }
  __device__ __forceinline__ void CopyColumns(std::uint8_t* smem, const CUtensorMap* map, int block,
                                              std::uint64_t* barrier) const {
#pragma unroll
    for (int column = 0; column < Policy::kHeadDim / kBoxChannels; ++column) {
      ptx::CopyBox(smem + column * kBoxBytes, map, column * kBoxChannels, block * kBlockKeys,
                   head_kv, barrier);
    }
  }
};

// One warp: whether some value of a block is not finite.
template <typename Policy>
__device__ __forceinline__ bool HasBadValues(const std::uint8_t* v) {
  std::uint32_t bad = 0;
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x % 32); i < Policy::kValueBytes / 16; i += 32) {
    const uint4 words = reinterpret_cast<const uint4*>(v)[i];
    if constexpr (Policy::kE4m3Values) {
      bad |= BadE4m3(words.x) | BadE4m3(words.y) | BadE4m3(words.z) | BadE4m3(words.w);
    } else {
      using Element = typename Policy::Element;
      bad |= BadElements<Element>(words.x) | BadElements<Element>(words.y) |
             BadElements<Element>(words.z) | BadElements<Element>(words.w);
    }
  }
  return __any_sync(0xffffffffU, bad != 0);
}

// One warp: sees to the values of a partial block.
template <typename Policy>
__device__ __forceinline__ void ContainBadValues(std::uint8_t* v, std::uint32_t* bad_keys) {
  if (__builtin_expect(!HasBadValues<Policy>(v), 1)) return;
  constexpr int kRowBytes = Policy::kE4m3Values ? kBlockKeys : kBoxRowBytes;
  using Tile = SwizzledTile<kRowBytes>;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x % 32); i < Policy::kValueBytes / 16; i += 32) {
    const int row = i / Tile::kChunks;
    const int chunk = i % Tile::kChunks;
    std::uint8_t* const words = v + Tile::Offset(row, chunk);
    if constexpr (Policy::kE4m3Values) {
      ContainBadE4m3(reinterpret_cast<std::uint32_t*>(words), chunk * 16, bad_keys);
    } else {
      ContainBadElements<typename Policy::Element>(reinterpret_cast<uint4*>(words),
                                                   row % kBlockKeys, bad_keys);
    }
  }
  ptx::FenceAsyncProxy();
}

// One warp: copies the listed blocks of every item into the ring of stages.
template <typename Policy>
__device__ __forceinline__ void CopyBlocks(SharedStorage<Policy>& storage) {
  const int lane = threadIdx.x % 32;
  RingPlace<kContexts> item;
  RingPlace<Policy::kStages> stage;
  std::uint32_t landed_parity = 0;  // a bit each
  for (;; item.Advance()) {
    ptx::Wait(&storage.context_full[item.index], item.parity);
    const TileContext& context = storage.contexts[item.index];
    if (context.total == kNoMoreWork) return;
    const BlockSource<Policy> source(context);
    const std::int32_t* const list = context.list;
    const float* const k_scales = context.k_scales;
    const int full = context.full;
    const int total = context.total;
    RingPlace<Policy::kStages> first_partial = stage;
    int block = 0;
    float k_scale = 0.0F;
    for (int i = 0; i < total; ++i) {
      // Every lane looks a block up, for 32 turns.
      if (i % 32 == 0) {
        block = __ldg(list + min(i + lane, total - 1));
        if (Policy::kInt8Scores) k_scale = __ldg(k_scales + block);
      }
      const int next_block = __shfl_sync(0xffffffffU, block, i % 32);
      const float next_scale = __shfl_sync(0xffffffffU, k_scale, i % 32);
      if (i == full) first_partial = stage;
      ptx::Wait(&storage.stage_empty[stage.index], stage.parity ^ 1);
      if (lane == 0) {
        storage.k_scale[stage.index] = next_scale;
        source.Copy(storage, stage.index, next_block,
                    i < full ? &storage.stage_full[stage.index] : &storage.landed[i - full]);
      }
      stage.Advance();
    }
    // Partial blocks, which come last, pass through this warp's hands.
    for (int i = full; i < total; ++i) {
      const int at = first_partial.index;
      if (lane == 0) storage.bad_keys[at][0] = storage.bad_keys[at][1] = 0;
      ptx::Wait(&storage.landed[i - full], landed_parity >> (i - full) & 1);
      landed_parity ^= 1U << (i - full);
      __syncwarp();
      ContainBadValues<Policy>(storage.v[at], storage.bad_keys[at]);
      __syncwarp();
      if (lane == 0) ptx::Arrive(&storage.stage_full[at]);
      first_partial.Advance();
    }
    __syncwarp();
    if (lane == 0) ptx::Arrive(&storage.context_empty[item.index]);
  }
}

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_PRODUCER_CUH_
