#include "server/unit_plan.h"

#include <cstdint>
#include <map>
#include <random>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sage::server {
namespace {

AttentionProblem Problem(std::int64_t batch, std::int64_t heads_q, std::int64_t heads_kv,
                         std::int64_t seqlen_q, std::int64_t seqlen_k, std::int64_t head_dim) {
  AttentionProblem problem;
  problem.batch = batch;
  problem.num_heads_q = heads_q;
  problem.num_heads_kv = heads_kv;
  problem.seqlen_q = seqlen_q;
  problem.seqlen_k = seqlen_k;
  problem.head_dim = head_dim;
  problem.return_lse = true;
  return problem;
}

TEST(UnitPlan, CoversEveryQueryOnceAndCarriesEveryKeyOnce) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    const auto draw = [&](std::int64_t most) { return std::int64_t(random() % most) + 1; };
    const std::int64_t heads_kv = draw(5);
    const AttentionProblem problem =
        Problem(draw(3), heads_kv * draw(4), heads_kv, draw(1000), draw(1000), 8 * draw(16));
    const auto units = PlanUnits(problem, {.unit_bytes = std::uint64_t(1) << draw(24)});
    ASSERT_TRUE(units.ok()) << units.status();

    std::uint64_t q_bytes = 0, kv_bytes = 0, out_bytes = 0, lse_bytes = 0;
    std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> next_query;  // by batch, KV head
    for (std::uint32_t i = 0; i < units->size(); ++i) {
      const Unit& unit = (*units)[i];
      ASSERT_GE(unit.q_count, 1);
      ASSERT_EQ(unit.q_begin % kBlockM, 0);
      ASSERT_LE(unit.kv_unit, i);
      const Unit& carrier = (*units)[unit.kv_unit];
      ASSERT_EQ(std::tuple(carrier.batch, carrier.kv_head_begin, carrier.kv_head_count),
                std::tuple(unit.batch, unit.kv_head_begin, unit.kv_head_count));
      ASSERT_EQ(unit.k_bytes > 0, unit.kv_unit == i);
      for (std::int64_t head = 0; head < unit.kv_head_count; ++head) {
        std::int64_t& next = next_query[{unit.batch, unit.kv_head_begin + head}];
        ASSERT_EQ(next, unit.q_begin);
        next += unit.q_count;
      }
      q_bytes += unit.q_bytes;
      kv_bytes += unit.k_bytes + unit.v_bytes;
      out_bytes += unit.out_bytes;
      lse_bytes += unit.lse_bytes;
    }
    ASSERT_EQ(next_query.size(), std::size_t(problem.batch * problem.num_heads_kv));
    for (const auto& [head, end] : next_query) ASSERT_EQ(end, problem.seqlen_q);
    EXPECT_EQ(q_bytes, std::uint64_t(problem.q_elements() * 2));
    EXPECT_EQ(kv_bytes, std::uint64_t(problem.kv_elements() * 4));
    EXPECT_EQ(out_bytes, q_bytes);
    EXPECT_EQ(lse_bytes, std::uint64_t(problem.lse_elements() * 4));
  }
}

TEST(UnitPlan, AimsAtTheUnitSize) {
  const AttentionProblem problem = Problem(1, 64, 64, 2048, 2048, 128);  // 1.5 MiB a head
  const auto units = PlanUnits(problem, {.unit_bytes = 4 << 20});
  ASSERT_TRUE(units.ok());
  EXPECT_EQ(units->size(), 32u);  // two heads each
  const AttentionProblem long_problem = Problem(1, 1, 1, 100000, 100000, 128);
  const auto ranges = PlanUnits(long_problem, {.unit_bytes = 4 << 20});
  ASSERT_TRUE(ranges.ok());
  for (const Unit& unit : *ranges) EXPECT_LE(unit.q_bytes, std::uint64_t{4} << 20);
}

TEST(UnitPlan, MakesUnitsLargerRatherThanTooMany) {
  const AttentionProblem problem = Problem(4, 64, 64, 10000, 64, 64);
  const auto units = PlanUnits(problem, {.unit_bytes = 1, .max_units = 100});
  ASSERT_TRUE(units.ok()) << units.status();
  EXPECT_LE(units->size(), 100u);
}

TEST(UnitPlan, RefusesABatchThatNeedsTooManyUnits) {
  const auto units = PlanUnits(Problem(101, 1, 1, 1, 1, 8), {.max_units = 100});
  EXPECT_EQ(units.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(units.status().message()),
              ::testing::HasSubstr("batch: got 101, allowed at most 100"));
}

TEST(UnitPlan, SurvivesTheLargestDimensions) {
  AttentionProblem problem = Problem(1, 1, 1, std::int64_t{1} << 31, std::int64_t{1} << 31, 128);
  const auto units = PlanUnits(problem, {});
  ASSERT_TRUE(units.ok()) << units.status();
  EXPECT_LE(units->size(), std::size_t{1} << 16);
}

// By at most half or twice the payload, and evenly in between.
TEST(UnitPlan, UnitsAdaptToWhatThereIsToCompute) {
  AttentionProblem problem;
  problem.batch = 1;
  problem.num_heads_q = problem.num_heads_kv = 4096;
  problem.head_dim = 128;
  const auto payload = [&problem](std::int64_t seqlen) {
    problem.seqlen_q = problem.seqlen_k = seqlen;
    const auto units = PlanUnits(problem, {.unit_bytes = 2 << 20, .unit_operations = 1e9});
    EXPECT_TRUE(units.ok()) << units.status();
    return units->front().payload_bytes();
  };
  // 768 bytes and 512 S operations a token and head: 1e9 operations are 1.5e9 / S bytes.
  EXPECT_EQ(payload(128), (4 << 20) / (128 * 768) * (128 * 768));  // at most 4 MiB
  EXPECT_EQ(payload(600), 1500000000 / 600 / (600 * 768) * (600 * 768));
  EXPECT_EQ(payload(1365), (1 << 20) / (1365 * 768) * (1365 * 768));  // at least 1 MiB
}

}  // namespace
}  // namespace sage::server
