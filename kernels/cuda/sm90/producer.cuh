// The warps that feed the consumers: a scheduler and one that copies blocks of K and V; those that
// copy queries are in queries.cuh. Each follows the work items at its own pace.
#ifndef SAGE_KERNELS_CUDA_SM90_PRODUCER_CUH_
#define SAGE_KERNELS_CUDA_SM90_PRODUCER_CUH_

#include <cstdint>

#include "kernels/cuda/bad_values.cuh"
#include "kernels/cuda/sm90/storage.cuh"
#include "kernels/cuda/sm90/turn_list.cuh"

namespace sage::cuda::sm90 {

// One warp: draws work items and says what they are, some ahead of those who ask, so that these do
// not wait for device memory.
template <typename Policy>
__device__ __forceinline__ void Schedule(SharedStorage<Policy>& storage, const WorkTable& table) {
  const int lane = threadIdx.x % 32;
  RingPlace<kContexts> place;
  bool more = true;
  while (more) {
    std::uint32_t item = 0;
    if (lane == 0) item = atomicAdd(table.next_item, 1U);
    item = __shfl_sync(0xffffffffU, item, 0);
    more = item < table.num_items;
    ptx::Wait(&storage.context_empty[place.index], place.parity ^ 1);
    ItemContext& context = storage.contexts[place.index];
    if (lane == 0) {
      if (more) {
        FillContext<Policy::kHeadDim>(table, item, context);
      } else {
        context.total = kNoMoreWork;
      }
    }
    __syncwarp();
    if (context.total > 0) {
      const int block = __ldg(context.list + min(lane, context.total - 1));
      context.first_blocks[lane] = block;
      if (Policy::kInt8Scores) context.first_k_scales[lane] = __ldg(context.k_scales + block);
    }
    ptx::Arrive(&storage.context_full[place.index]);  // every lane, which has written its part
    place.Advance();
  }
}

// Where the blocks of an item lie. Read once, ahead of the loop.
template <typename Policy>
struct BlockSource {
  const std::uint8_t* k;
  const std::uint8_t* v;
  const CUtensorMap* k_map;
  const CUtensorMap* v_map;
  int head_kv;

  explicit __device__ __forceinline__ BlockSource(const ItemContext& context)
      : k(context.k),
        v(context.v),
        k_map(&context.task->k_map),
        v_map(&context.task->v_map),
        head_kv(context.head / context.task->group_size) {}

  // One warp, once a task.
  __device__ __forceinline__ void Acquire() const {
    if (!Policy::kInt8Scores) ptx::AcquireTensorMap(k_map);
    if (!Policy::kE4m3Values) ptx::AcquireTensorMap(v_map);
  }

  // One lane each: starts the copy of block `block` into place `place` of a stage, which reports to
  // `barrier`.
  __device__ __forceinline__ void CopyKeys(SharedStorage<Policy>& storage, int stage, int place,
                                           int block, std::uint64_t* barrier) const {
    if constexpr (Policy::kInt8Scores) {
      ptx::CopyBulk(storage.k[stage][place],
                    k + static_cast<std::int64_t>(block) * Policy::kKeyTileBytes,
                    Policy::kKeyTileBytes, barrier);
    } else {
      CopyColumns(storage.k[stage][place], k_map, block, barrier);
    }
  }
  __device__ __forceinline__ void CopyValues(SharedStorage<Policy>& storage, int stage, int place,
                                             int block, std::uint64_t* barrier) const {
    if constexpr (Policy::kE4m3Values) {
      ptx::CopyBulk(storage.v[stage][place],
                    v + static_cast<std::int64_t>(block) * Policy::kValueBytes, Policy::kValueBytes,
                    barrier);
    } else {
      CopyColumns(storage.v[stage][place], v_map, block, barrier);
    }
  }

 private:
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

// One warp: copies the listed blocks of every item into the ring of stages, those of a turn into
// one.
template <typename Policy>
__device__ __forceinline__ void CopyBlocks(SharedStorage<Policy>& storage) {
  constexpr int kTurnBlocks = Policy::kTurnBlocks;
  const int lane = threadIdx.x % 32;
  RingPlace<kContexts> item;
  RingPlace<Policy::kStages> stage;
  std::uint32_t landed_parity = 0;  // a bit each
  const DeviceTask* task = nullptr;
  for (;; item.Advance()) {
    ptx::Wait(&storage.context_full[item.index], item.parity);
    const ItemContext& context = storage.contexts[item.index];
    if (context.total == kNoMoreWork) return;
    const BlockSource<Policy> source(context);
    if (context.task != task) source.Acquire();
    task = context.task;
    const std::int32_t* const list = context.list;
    const float* const k_scales = context.k_scales;
    const TurnList<Policy> turns(context.full, context.total);
    RingPlace<Policy::kStages> first_partial = stage;
    int block = context.first_blocks[lane];
    float k_scale = context.first_k_scales[lane];
    for (int turn = 0; turn < turns.count; ++turn) {
      if (turn == turns.full) first_partial = stage;
      int blocks[kTurnBlocks];
      float scales[kTurnBlocks];
#pragma unroll
      for (int place = 0; place < kTurnBlocks; ++place) {
        // In a place without an entry lies what the first entry has. If that is whole every row
        // sees it: 0 times an infinite value makes NaN where infinity is anyway.
        const int entry = max(turns.Entry(turn, place), 0);
        // Every lane looks a block up, for 32 entries.
        if (entry % 32 == 0 && entry > 0) {
          block = __ldg(list + min(entry + lane, context.total - 1));
          if (Policy::kInt8Scores) k_scale = __ldg(k_scales + block);
        }
        blocks[place] = __shfl_sync(0xffffffffU, block, entry % 32);
        scales[place] = __shfl_sync(0xffffffffU, k_scale, entry % 32);
      }
      StageState<Policy>& state = storage.stages[stage.index];
      ptx::Wait(&state.k_empty, stage.parity ^ 1);
      if (lane == 0) {
        std::uint64_t* const barrier = &state.k_full;
        for (int place = 0; place < kTurnBlocks; ++place) state.k_scale[place] = scales[place];
        ptx::ArriveExpecting(barrier, kTurnBlocks * Policy::kKeyTileBytes);
        for (int place = 0; place < kTurnBlocks; ++place) {
          source.CopyKeys(storage, stage.index, place, blocks[place], barrier);
        }
      }
      ptx::Wait(&state.v_empty, stage.parity ^ 1);
      if (lane == 0) {
        std::uint64_t* const barrier =
            turn < turns.full ? &state.v_full : &storage.landed[turn - turns.full];
        ptx::ArriveExpecting(barrier, kTurnBlocks * Policy::kValueBytes);
        for (int place = 0; place < kTurnBlocks; ++place) {
          source.CopyValues(storage, stage.index, place, blocks[place], barrier);
        }
      }
      stage.Advance();
    }
    // Values of partial blocks, which come last, pass through this warp's hands.
    for (int turn = turns.full; turn < turns.count; ++turn) {
      const int at = first_partial.index;
      StageState<Policy>& state = storage.stages[at];
      const int barrier = turn - turns.full;
      if (lane == 0) {
        for (auto& keys : state.bad_keys) keys[0] = keys[1] = 0;
      }
      ptx::Wait(&storage.landed[barrier], landed_parity >> barrier & 1);
      landed_parity ^= 1U << barrier;
      __syncwarp();
#pragma unroll
      for (int place = 0; place < kTurnBlocks; ++place) {
        if (max(turns.Entry(turn, place), 0) < context.full) continue;
        ContainBadValues<Policy>(storage.v[at][place], state.bad_keys[place]);
      }
      __syncwarp();
      if (lane == 0) ptx::Arrive(&state.v_full);
      first_partial.Advance();
    }
    ptx::Arrive(&storage.context_empty[item.index]);
  }
}

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_PRODUCER_CUH_
