#include "kernels/cpu/launch.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>
#include <vector>

#include "kernels/cpu/attend_tile.h"
#include "kernels/cpu/prepare_kv.h"
#include "kernels/cpu/prepared_kv.h"

namespace sage {
namespace {

struct Tile {
  const AttendTask* task;
  std::int64_t head;
  std::int64_t tile;    // within the task
  std::int64_t blocks;  // that are listed for it
};

void AppendBlocks(const Tile& tile, std::vector<ActiveBlock>* blocks) {
  const AttendTask& task = *tile.task;
  AppendActiveBlocks(task.mask, tile.head, task.q_begin / kBlockM + tile.tile, task.length_q,
                     task.kv.length_k, task.is_causal, blocks);
}

}  // namespace

std::size_t AttendScratchBytes(const ThreadPool& pool) {
  return sizeof(TileScratch) * pool.num_threads();
}

void LaunchPrepareKv(const KvTask& task, std::byte* prepared, ThreadPool& pool) {
  const PreparedKvLayout layout(task);
  const std::int64_t blocks = CeilDiv(task.length_k, kBlockN);
  if (task.precision != Precision::kFp16) {
    if (!task.k_scales.has_value() || task.precision == Precision::kQkInt8PvFp8) {
      pool.ParallelFor(task.num_heads * blocks, [&](std::int64_t i, int /*participant*/) {
        GatherBlockStatistics(task, i / blocks, i % blocks, layout.Head(prepared, i / blocks));
      });
    }
    pool.ParallelFor(task.num_heads, [&](std::int64_t head, int /*participant*/) {
      ReduceHead(task, head, layout.Head(prepared, head));
    });
  }
  pool.ParallelFor(task.num_heads * blocks, [&](std::int64_t i, int /*participant*/) {
    PackBlock(task, i / blocks, i % blocks, layout.Head(prepared, i / blocks));
  });
}

absl::Status LaunchAttend(std::span<const AttendTask> tasks, std::byte* scratch,
                          ThreadPool& pool) try {
  std::vector<ActiveBlock> counted;
  std::vector<Tile> tiles;
  std::size_t most_blocks = 0;
  for (const AttendTask& task : tasks) {
    for (std::int64_t head = 0; head < task.num_heads_q; ++head) {
      for (std::int64_t tile = 0; tile * kBlockM < task.q_rows; ++tile) {
        counted.clear();
        AppendBlocks({&task, head, tile, 0}, &counted);
        tiles.push_back({&task, head, tile, static_cast<std::int64_t>(counted.size())});
        most_blocks = std::max(most_blocks, counted.size());
      }
    }
  }
  // Equal tiles stay in order, so that neighbours in time share keys and values.
  std::stable_sort(tiles.begin(), tiles.end(),
                   [](const Tile& a, const Tile& b) { return a.blocks > b.blocks; });
  std::vector<std::vector<ActiveBlock>> lists(pool.num_threads());
  for (std::vector<ActiveBlock>& list : lists) list.reserve(most_blocks);

  auto* const scratches = reinterpret_cast<TileScratch*>(scratch);
  pool.ParallelFor(static_cast<std::int64_t>(tiles.size()), [&](std::int64_t i, int participant) {
    const std::atomic<bool>* const abandoned = tiles[i].task->abandoned;
    if (abandoned != nullptr && abandoned->load(std::memory_order_relaxed)) return;
    std::vector<ActiveBlock>& blocks = lists[participant];
    blocks.clear();
    AppendBlocks(tiles[i], &blocks);
    AttendTile(*tiles[i].task, tiles[i].head, tiles[i].tile, blocks, scratches[participant]);
  });
  return absl::OkStatus();
} catch (const std::bad_alloc&) {
  return absl::ResourceExhaustedError("no memory for the list of attention tiles");
}

}  // namespace sage
