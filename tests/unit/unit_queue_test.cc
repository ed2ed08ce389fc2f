#include "server/unit_queue.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sage::server {
namespace {

using ::testing::ElementsAre;

class UnitQueueTest : public ::testing::Test {
 protected:
  using Request = std::shared_ptr<RequestContext>;

  static Request NewRequest(const std::string& tenant, int priority = 0) {
    auto request = std::make_shared<RequestContext>();
    request->tenant = tenant;
    request->priority = priority;
    return request;
  }

  void Push(const Request& request, std::uint32_t unit, double seconds) {
    UnitWork work;
    work.unit = unit;
    work.seconds = seconds;
    work.request = request;
    queue_.Push(std::move(work));
  }

  // Runs units of `seconds` in all, and says how much each tenant got of it.
  std::map<std::string, double> Run(double seconds) {
    std::map<std::string, double> used;
    for (double passed = 0; passed < seconds && !queue_.empty();) {
      const UnitWork work = queue_.Pop();
      used[work.request->tenant] += work.seconds;
      passed += work.seconds;
    }
    return used;
  }

  std::vector<std::uint32_t> PopAll() {
    std::vector<std::uint32_t> units;
    while (!queue_.empty()) units.push_back(queue_.Pop().unit);
    return units;
  }

  UnitQueue queue_;
};

TEST_F(UnitQueueTest, OneTenantsUnitsRunInTheOrderTheyCame) {
  const Request first = NewRequest("a");
  const Request second = NewRequest("a");
  Push(first, 0, 1);
  Push(second, 1, 5);
  Push(first, 2, 1);
  EXPECT_THAT(PopAll(), ElementsAre(0, 1, 2));
}

TEST_F(UnitQueueTest, LargerPrioritiesGoFirstWithinATenant) {
  Push(NewRequest("a", 0), 0, 1);
  Push(NewRequest("a", -3), 1, 1);
  Push(NewRequest("a", 10), 2, 1);
  Push(NewRequest("a", 10), 3, 1);
  EXPECT_THAT(PopAll(), ElementsAre(2, 3, 0, 1));
}

TEST_F(UnitQueueTest, PriorityTakesNothingFromOtherTenants) {
  const Request loud = NewRequest("loud", 10);
  const Request quiet = NewRequest("quiet", -10);
  for (std::uint32_t i = 0; i < 100; ++i) {
    Push(loud, i, 1);
    Push(quiet, i, 1);
  }
  const auto used = Run(100);
  EXPECT_EQ(used.at("loud"), 50);
  EXPECT_EQ(used.at("quiet"), 50);
}

TEST_F(UnitQueueTest, TenantsGetEqualTimeHoweverManyRequestsTheySend) {
  for (std::uint32_t i = 0; i < 1000; ++i) Push(NewRequest("many"), i, 1);
  const Request one = NewRequest("one");
  for (std::uint32_t i = 0; i < 100; ++i) Push(one, i, 1);
  const auto used = Run(200);
  EXPECT_EQ(used.at("one"), 100);
  EXPECT_EQ(used.at("many"), 100);
}

TEST_F(UnitQueueTest, TenantsGetEqualTimeWhateverTheirUnitsCost) {
  for (std::uint32_t i = 0; i < 1000; ++i) Push(NewRequest("small"), i, 0.1);
  for (std::uint32_t i = 0; i < 100; ++i) Push(NewRequest("large"), i, 1);
  const auto used = Run(100);
  EXPECT_NEAR(used.at("small"), 50, 1);
  EXPECT_NEAR(used.at("large"), 50, 1);
}

TEST_F(UnitQueueTest, NothingIsSavedUpWhileATenantHasNothingToRun) {
  for (std::uint32_t i = 0; i < 100; ++i) Push(NewRequest("busy"), i, 1);
  EXPECT_EQ(Run(50).at("busy"), 50);
  for (std::uint32_t i = 0; i < 100; ++i) Push(NewRequest("late"), i, 1);
  const auto used = Run(20);
  EXPECT_EQ(used.at("busy"), 10);
  EXPECT_EQ(used.at("late"), 10);
}

TEST_F(UnitQueueTest, UnitsWithoutCostTakeTurnsToo) {
  for (std::uint32_t i = 0; i < 3; ++i) {
    Push(NewRequest("a"), i, 0);
    Push(NewRequest("b"), 10 + i, 0);
  }
  EXPECT_THAT(PopAll(), ElementsAre(0, 10, 1, 11, 2, 12));
}

TEST_F(UnitQueueTest, NextIsWhatPopTakes) {
  for (std::uint32_t i = 0; i < 20; ++i) Push(NewRequest(i % 3 == 0 ? "a" : "b"), i, 1.0 + i % 4);
  while (!queue_.empty()) {
    const std::uint32_t next = queue_.Next().unit;
    EXPECT_EQ(queue_.Next().unit, next);
    EXPECT_EQ(queue_.Pop().unit, next);
  }
}

TEST_F(UnitQueueTest, ExtractedUnitsLeaveNoTrace) {
  const Request dropped = NewRequest("a");
  const Request kept = NewRequest("a");
  const Request other = NewRequest("b");
  Push(dropped, 0, 1);
  Push(kept, 1, 1);
  Push(dropped, 2, 1);
  Push(other, 3, 1);
  const auto units = queue_.Extract([&](const UnitWork& work) { return work.request == dropped; });
  ASSERT_EQ(units.size(), 2u);
  EXPECT_EQ(units[0].unit, 0u);
  EXPECT_EQ(units[1].unit, 2u);
  EXPECT_EQ(queue_.size(), 2u);
  EXPECT_DOUBLE_EQ(queue_.seconds(), 2);
  queue_.Extract([&](const UnitWork& work) { return work.request == kept; });
  EXPECT_THAT(PopAll(), ElementsAre(3));
  EXPECT_EQ(queue_.size(), 0u);
  EXPECT_EQ(queue_.seconds(), 0);
}

TEST_F(UnitQueueTest, SecondsAheadAreThoseThatRunBefore) {
  for (std::uint32_t i = 0; i < 10; ++i) Push(NewRequest("many"), i, 1);
  Push(NewRequest("mine", 5), 0, 2);
  Push(NewRequest("mine", -5), 0, 3);
  EXPECT_DOUBLE_EQ(queue_.seconds(), 15);
  // All of one's own that go first, and as much of the other tenant's time as one's own.
  EXPECT_DOUBLE_EQ(queue_.SecondsAhead("mine", -5, 1), 5 + 6);
  EXPECT_DOUBLE_EQ(queue_.SecondsAhead("mine", 5, 1), 2 + 3);
  EXPECT_DOUBLE_EQ(queue_.SecondsAhead("mine", 6, 1), 0 + 1);
  EXPECT_DOUBLE_EQ(queue_.SecondsAhead("many", 0, 100), 10 + 5);
  EXPECT_DOUBLE_EQ(queue_.SecondsAhead("new", 0, 0.5), 0.5 + 0.5);
}

}  // namespace
}  // namespace sage::server
