#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "client/internal/payload_cursor.h"
#include "client/internal/unit_plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sage::internal {
namespace {

using ::testing::HasSubstr;

AttentionProblem Problem(Layout layout) {
  AttentionProblem problem;
  problem.batch = 2;
  problem.num_heads_q = 8;
  problem.num_heads_kv = 4;
  problem.seqlen_q = 300;
  problem.seqlen_k = 129;
  problem.head_dim = 8;
  problem.layout = layout;
  problem.return_lse = true;
  return problem;
}

void Add(v1::Accepted* accepted, std::int64_t batch, std::int64_t head, std::int64_t heads,
         std::int64_t q_begin, std::int64_t q_count, std::uint32_t kv_unit) {
  v1::Unit* unit = accepted->add_units();
  unit->set_batch(batch);
  unit->set_kv_head_begin(head);
  unit->set_kv_head_count(heads);
  unit->set_q_begin(q_begin);
  unit->set_q_count(q_count);
  unit->set_kv_unit(kv_unit);
}

// Batch 0 by pairs of heads, cut at row 256; batch 1 whole.
HeadsInMemory AllHeads() {
  const AttentionProblem problem = Problem(Layout::kHnd);
  return {problem.num_heads_q, problem.num_heads_kv};
}

v1::Accepted GoodPlan() {
  v1::Accepted accepted;
  accepted.set_window_bytes(1 << 20);
  accepted.set_max_chunk_bytes(1 << 20);
  Add(&accepted, 0, 0, 2, 0, 256, 0);
  Add(&accepted, 0, 0, 2, 256, 44, 0);
  Add(&accepted, 0, 2, 2, 0, 256, 2);
  Add(&accepted, 0, 2, 2, 256, 44, 2);
  Add(&accepted, 1, 0, 4, 0, 300, 4);
  return accepted;
}

TEST(ClientUnitPlanTest, LocatesEveryByteOnce) {
  for (const Layout layout : {Layout::kHnd, Layout::kNhd}) {
    const AttentionProblem problem = Problem(layout);
    const auto plan = CheckPlan(problem, {problem.num_heads_q, problem.num_heads_kv}, GoodPlan());
    ASSERT_TRUE(plan.ok()) << plan.status();
    const auto expect_cover = [&](TensorPiece PlannedUnit::*piece, std::int64_t bytes) {
      std::vector<int> seen(bytes);
      for (const PlannedUnit& unit : plan->units) {
        (unit.*piece)
            .ForEachRun(0, (unit.*piece).bytes(), [&](std::int64_t at, auto, std::int64_t size) {
              for (std::int64_t i = 0; i < size; ++i) ++seen.at(at + i);
            });
      }
      EXPECT_EQ(seen, std::vector<int>(bytes, 1));
    };
    expect_cover(&PlannedUnit::q, problem.q_elements() * 2);
    expect_cover(&PlannedUnit::k, problem.kv_elements() * 2);
    expect_cover(&PlannedUnit::v, problem.kv_elements() * 2);
    expect_cover(&PlannedUnit::out, problem.q_elements() * 2);
    expect_cover(&PlannedUnit::lse, problem.lse_elements() * 4);

    const auto int8 = CheckPlan(problem, {problem.num_heads_q, problem.num_heads_kv}, GoodPlan(),
                                {.int8 = {.q = true, .k = true}});
    ASSERT_TRUE(int8.ok()) << int8.status();
    std::int64_t payload = 0;
    for (const PlannedUnit& unit : int8->units) payload += unit.payload_bytes();
    EXPECT_EQ(payload, problem.q_elements() + 3 * problem.kv_elements());
  }
}

TEST(ClientUnitPlanTest, SendsUnitsInOrderAndEveryByteOnce) {
  const auto plan = CheckPlan(Problem(Layout::kNhd), AllHeads(), GoodPlan());
  ASSERT_TRUE(plan.ok());
  for (const std::int64_t chunk_bytes : {16, 48, 1000, 1 << 20}) {
    PayloadCursor cursor(&*plan, chunk_bytes);
    std::uint32_t unit = 0;
    std::int64_t sent = 0;
    for (; !cursor.done(); cursor.Advance()) {
      const PayloadChunk chunk = cursor.Next();
      EXPECT_GE(chunk.unit, unit);
      EXPECT_GT(chunk.size, 0);
      EXPECT_LE(chunk.size, chunk_bytes);
      EXPECT_LE(chunk.offset + chunk.size, chunk.piece->bytes());
      unit = chunk.unit;
      sent += chunk.size;
    }
    EXPECT_EQ(unit, plan->units.size() - 1);
    EXPECT_EQ(sent, std::accumulate(plan->units.begin(), plan->units.end(), std::int64_t{0},
                                    [](std::int64_t sum, const PlannedUnit& planned) {
                                      return sum + planned.payload_bytes();
                                    }));
  }
}

TEST(ClientUnitPlanTest, RefusesPlansThatCannotBeTrusted) {
  const struct {
    std::function<void(v1::Accepted*)> spoil;
    std::string message;
  } kCases[] = {
      {[](v1::Accepted* a) { a->mutable_units(0)->set_batch(2); }, "batch 2 of 2"},
      {[](v1::Accepted* a) { a->mutable_units(0)->set_batch(-1); }, "batch -1"},
      {[](v1::Accepted* a) { a->mutable_units(0)->set_kv_head_count(5); }, "KV heads"},
      {[](v1::Accepted* a) { a->mutable_units(0)->set_kv_head_count(0); }, "KV heads"},
      {[](v1::Accepted* a) { a->mutable_units(0)->set_kv_head_begin(INT64_MAX); }, "KV heads"},
      {[](v1::Accepted* a) { a->mutable_units(4)->set_q_count(INT64_MAX); }, "query rows"},
      {[](v1::Accepted* a) { a->mutable_units(1)->set_q_begin(300); }, "query rows"},
      {[](v1::Accepted* a) { a->mutable_units(1)->set_q_count(43); }, "multiples of 128"},
      {[](v1::Accepted* a) { a->mutable_units(0)->set_q_begin(1); }, "multiples of 128"},
      {[](v1::Accepted* a) { a->mutable_units(0)->set_kv_unit(1); }, "later"},
      {[](v1::Accepted* a) { a->mutable_units(3)->set_kv_unit(0); }, "does not carry"},
      {[](v1::Accepted* a) { a->mutable_units(4)->set_kv_unit(3); }, "does not carry"},
      {[](v1::Accepted* a) { a->mutable_units(1)->set_q_begin(0); }, "multiples of 128"},
      {[](v1::Accepted* a) { *a->mutable_units(2) = a->units(0); }, "repeats"},
      {[](v1::Accepted* a) { a->mutable_units()->RemoveLast(); }, "in no unit"},
      {[](v1::Accepted* a) { a->clear_units(); }, "in no unit"},
      {[](v1::Accepted* a) { a->set_window_bytes(100); }, "window of 100"},
      {[](v1::Accepted* a) { a->clear_max_chunk_bytes(); }, "chunks of 0"},
  };
  for (const auto& test : kCases) {
    v1::Accepted accepted = GoodPlan();
    test.spoil(&accepted);
    const auto plan = CheckPlan(Problem(Layout::kHnd), AllHeads(), accepted);
    EXPECT_EQ(plan.status().code(), absl::StatusCode::kInternal) << test.message;
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr(test.message));
  }
}

}  // namespace
}  // namespace sage::internal
