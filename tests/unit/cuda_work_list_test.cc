// Lists built on the device against those built on the host, and the order of work items.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "kernels/backend.h"
#include "kernels/block_mask.h"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/cuda_backend.h"
#include "tests/support/cuda_device.h"
#include "tests/support/device_problem.h"
#include "tests/support/problem_generator.h"

namespace sage {
namespace {

using testing::DataKind;
using testing::DeviceProblem;

using CudaWorkListTest = testing::CudaFixture<>;

template <typename T>
std::vector<T> Read(Stream& stream, const std::byte* device, std::int64_t count) {
  std::vector<T> values(count);
  EXPECT_TRUE(stream.CopyToHost(values.data(), device, count * sizeof(T)).ok());
  EXPECT_TRUE(stream.Synchronize().ok());
  return values;
}

// Many requests at once, with masks of all kinds, lengths and causality.
TEST_F(CudaWorkListTest, ListsAndOrderAreThoseOfTheHost) {
  const std::unique_ptr<Stream> stream = *backend_->CreateStream();
  std::vector<std::unique_ptr<DeviceProblem>> devices;
  std::vector<AttentionProblem> problems;
  std::vector<BlockMask> masks;
  std::vector<AttendTask> tasks;
  std::vector<std::size_t> origins;  // problem of a task
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    AttentionProblem problem;
    problem.batch = 1 + seed % 2;
    problem.num_heads_kv = 1;
    problem.num_heads_q = 1 + seed % 10;
    problem.seqlen_q = 1 + random() % 1200;
    problem.seqlen_k = 1 + random() % 3000;
    problem.head_dim = 8;
    problem.is_causal = seed % 3 == 0;
    problem.seqlens_q.assign(problem.batch, random() % (problem.seqlen_q + 1));
    problem.seqlens_k.assign(problem.batch, random() % (problem.seqlen_k + 1));
    BlockMask mask;
    if (seed % 4 != 0) {
      const std::int64_t heads = seed % 4 == 1 ? 1 : problem.num_heads_q;
      mask = *BlockMask::FromDense(problem, 1, heads,
                                   testing::RandomDenseMask(problem, 1, heads, 0.4, seed));
    }
    const auto data = testing::MakeData(problem, DataKind::kNormal, seed);
    devices.push_back(std::make_unique<DeviceProblem>(*backend_, *stream, problem, data, mask));
    devices.back()->Prepare(*stream);
    const std::int64_t tiles = seed % 5 == 0 ? 1 : 0;
    for (const AttendTask& task : devices.back()->Tasks(tiles)) {
      origins.push_back(problems.size());
      tasks.push_back(task);
    }
    problems.push_back(problem);
    masks.push_back(mask);
  }
  const cuda::WorkspaceLayout layout(tasks);
  const Memory workspace = *backend_->Allocate(MemoryKind::kDevice, layout.bytes);
  ASSERT_TRUE(stream->Attend(tasks, workspace.data()).ok());
  const cuda::AttendPlan plan = *cuda::MakeAttendPlan(tasks);
  ASSERT_EQ(plan.groups.size(), 1U);
  ASSERT_EQ(plan.tasks.size(), tasks.size());  // one kernel: in the order given
  const auto rows = Read<cuda::ListRow>(*stream, workspace.data() + layout.rows, plan.num_rows);
  const auto items = Read<cuda::WorkItem>(*stream, workspace.data() + layout.items, plan.num_items);

  std::int64_t checked_rows = 0;
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    const cuda::DeviceTask& task = plan.tasks[t];
    const std::size_t p = origins[t];
    const BlockMask& mask = masks[p];
    for (std::int64_t head = 0; head < task.mask_heads; ++head) {
      for (std::int64_t tile = 0; tile < task.num_tiles; ++tile, ++checked_rows) {
        std::vector<ActiveBlock> want;
        AppendActiveBlocks(mask.View(0, 0), head, tile + tasks[t].q_begin / kBlockM,
                           tasks[t].length_q, tasks[t].kv.length_k, tasks[t].is_causal, &want);
        const std::int64_t row = task.row_begin + head * task.num_tiles + tile;
        ASSERT_EQ(rows[row].total, static_cast<std::int32_t>(want.size()));
        const auto list = Read<std::int32_t>(
            *stream,
            workspace.data() + layout.lists +
                (task.list_begin + (row - task.row_begin) * task.blocks_k) * sizeof(std::int32_t),
            want.size());
        for (std::size_t i = 0; i < want.size(); ++i) {
          ASSERT_EQ(list[i], want[i].block);
          ASSERT_EQ(static_cast<std::int32_t>(i) >= rows[row].full, want[i].partial);
        }
      }
    }
  }
  EXPECT_EQ(checked_rows, plan.num_rows);
  EXPECT_GT(plan.num_items, 1500);  // more than are sorted at once

  std::int32_t longest = 0;
  for (const cuda::ListRow& row : rows) longest = std::max(longest, row.total);
  std::set<std::tuple<int, int, int>> seen;
  std::int32_t previous = longest;
  std::tuple<int, int, int> previous_place = {-1, -1, -1};
  for (const cuda::WorkItem& item : items) {
    const std::tuple<int, int, int> place = {item.task, item.head, item.tile};
    EXPECT_TRUE(seen.insert(place).second);
    const std::int32_t total = rows[item.row].total;
    EXPECT_LE(total, previous + longest / 16 + 1);  // sorted to a bin's width
    if (total == previous) {                        // alike: in the order of the table
      EXPECT_GT(place, previous_place);
    }
    previous = total;
    previous_place = place;
  }
  EXPECT_EQ(static_cast<std::int64_t>(seen.size()), plan.num_items);
}

}  // namespace
}  // namespace sage
