#include "server/ingest.h"

#include <chrono>
#include <optional>
#include <semaphore>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace sage::server {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMiB = 1 << 20;

TEST(TransferRateTest, IsUnknownUntilSomethingWasSeen) {
  TransferRate rate;
  EXPECT_EQ(rate.bytes_per_second(), 0);
  rate.Observe(1e6, 1e-3);
  EXPECT_DOUBLE_EQ(rate.bytes_per_second(), 1e9);
}

TEST(TransferRateTest, FollowsWhatIsSeenWithinASecond) {
  TransferRate rate;
  for (int i = 0; i < 1000; ++i) rate.Observe(1e6, 1e-3);
  EXPECT_NEAR(rate.bytes_per_second(), 1e9, 1);
  for (int i = 0; i < 100; ++i) rate.Observe(1e6, 10e-3);
  // What is four times the time of fading old counts for exp(-4) = 2% of its seconds, at ten times
  // the bytes.
  EXPECT_NEAR(rate.bytes_per_second(), 1e8, 0.2e8);
  for (int i = 0; i < 1000; ++i) rate.Observe(1e6, 1e-3);
  EXPECT_NEAR(rate.bytes_per_second(), 1e9, 0.1e9);
}

TEST(TransferRateTest, APauseCountsForAQuarterOfASecond) {
  TransferRate paused;
  TransferRate slow;
  for (TransferRate* rate : {&paused, &slow}) {
    for (int i = 0; i < 1000; ++i) rate->Observe(1e6, 1e-3);
  }
  paused.Observe(1e6, 3600);
  slow.Observe(1e6, 0.25);
  EXPECT_DOUBLE_EQ(paused.bytes_per_second(), slow.bytes_per_second());
  EXPECT_GT(paused.bytes_per_second(), 0.3e9);  // exp(-1) of what it was
}

class IngestTest : public ::testing::Test {
 protected:
  Ingest::Turn Join(std::uint64_t bytes, const std::string& line = "line", int priority = 0) {
    return ingest_.Join({.name = line}, {.payload = bytes}, priority, now_);
  }
  void Receive(Ingest::Turn& turn, std::uint64_t bytes, Ingest::Clock::duration after = 1ms) {
    now_ += after;
    turn.Received(bytes, true, now_);
  }
  // Whether it may send at once; where not, come_ is released when it may.
  bool MaySend(Ingest::Turn& turn) {
    return turn.Await([this] { come_.release(); });
  }
  Ingest::Arrival Estimate(std::uint64_t bytes, int priority = 0) {
    return ingest_.Estimate({.name = "line"}, {.payload = bytes}, priority, now_);
  }

  std::counting_semaphore<> come_{0};
  std::binary_semaphore gone_{0};
  Ingest ingest_{1h};  // so long that no line falls silent
  Ingest::Clock::time_point now_ = Ingest::Clock::now();
};

TEST_F(IngestTest, RequestsOfALineSendInTurn) {
  Ingest::Turn first = Join(8 * kMiB);
  Ingest::Turn second = Join(8 * kMiB);
  Ingest::Turn third = Join(8 * kMiB);
  EXPECT_TRUE(MaySend(first));
  EXPECT_FALSE(MaySend(second));
  EXPECT_FALSE(MaySend(third));
  Receive(first, 7 * kMiB - 1);
  EXPECT_EQ(ingest_.waiting(), 2U);
  Receive(first, 1);  // a chunk is left, which covers the way to the client and back
  come_.acquire();
  EXPECT_EQ(ingest_.waiting(), 1U);
  EXPECT_TRUE(MaySend(second));
  Receive(first, kMiB);
  EXPECT_EQ(ingest_.waiting(), 1U);
  Receive(second, 8 * kMiB);
  come_.acquire();
  EXPECT_TRUE(MaySend(third));
}

TEST_F(IngestTest, LinesDoNotWaitForEachOther) {
  Ingest::Turn first = Join(8 * kMiB, "one");
  Ingest::Turn second = Join(8 * kMiB, "other");
  EXPECT_TRUE(MaySend(first));
  EXPECT_TRUE(MaySend(second));
}

TEST_F(IngestTest, WhatHasNoPayloadOrNoLineNeverWaits) {
  Ingest::Turn first = Join(8 * kMiB);
  Ingest::Turn empty = Join(0);
  Ingest::Turn here = Join(8 * kMiB, "");
  EXPECT_TRUE(MaySend(empty));
  EXPECT_TRUE(MaySend(here));
  EXPECT_EQ(ingest_.waiting(), 0U);
}

TEST_F(IngestTest, ALineOfSeveralConnectionsHasAsManySenders) {
  std::vector<Ingest::Turn> turns;
  for (int i = 0; i < 4; ++i) {
    turns.push_back(ingest_.Join({.name = "wide", .width = 3}, {.payload = 8 * kMiB}, 0, now_));
  }
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(MaySend(turns[i]));
  EXPECT_FALSE(MaySend(turns[3]));
}

TEST_F(IngestTest, OneThatIsShorterGoesBesideALongOne) {
  Ingest::Turn long_one = Join(100 * kMiB);
  Ingest::Turn as_long = Join(100 * kMiB);
  Ingest::Turn shorter = Join(10 * kMiB);
  Ingest::Turn another = Join(10 * kMiB);
  EXPECT_TRUE(MaySend(long_one));
  EXPECT_FALSE(MaySend(as_long));
  EXPECT_TRUE(MaySend(shorter));
  EXPECT_FALSE(MaySend(another)) << "one at a time";
  Receive(shorter, 10 * kMiB);
  come_.acquire();
  EXPECT_TRUE(MaySend(another));
  EXPECT_EQ(ingest_.waiting(), 1U);
}

TEST_F(IngestTest, LargerPriorityGoesFirst) {
  Ingest::Turn first = Join(8 * kMiB);
  Ingest::Turn later = Join(8 * kMiB);
  Ingest::Turn sooner = Join(8 * kMiB, "line", 1);
  EXPECT_FALSE(MaySend(later));
  EXPECT_FALSE(MaySend(sooner));
  Receive(first, 8 * kMiB);
  come_.acquire();
  EXPECT_TRUE(MaySend(sooner));
  EXPECT_EQ(ingest_.waiting(), 1U);
}

TEST_F(IngestTest, OneThatWaitsForItsAnswersHoldsUpNobody) {
  Ingest::Turn first = Join(100 * kMiB);
  Ingest::Turn second = Join(100 * kMiB);
  EXPECT_FALSE(MaySend(second));
  first.Received(32 * kMiB, false, now_);
  come_.acquire();
  EXPECT_TRUE(MaySend(second));
}

TEST_F(IngestTest, OneThatEndsMakesRoom) {
  std::optional<Ingest::Turn> first = Join(8 * kMiB);
  Ingest::Turn second = Join(8 * kMiB);
  Ingest::Turn third = Join(8 * kMiB);
  EXPECT_FALSE(MaySend(second));
  EXPECT_FALSE(MaySend(third));
  first.reset();
  come_.acquire();
  EXPECT_TRUE(MaySend(second));
  second.GiveUp();
  come_.acquire();
  EXPECT_TRUE(MaySend(third));
}

TEST_F(IngestTest, OneThatGivesUpIsToldAtOnceAndLeavesItsPlace) {
  Ingest::Turn first = Join(8 * kMiB);
  Ingest::Turn second = Join(8 * kMiB);
  Ingest::Turn third = Join(8 * kMiB);
  EXPECT_FALSE(second.Await([this] { gone_.release(); }));
  EXPECT_FALSE(MaySend(third));
  second.GiveUp();
  gone_.acquire();
  EXPECT_EQ(ingest_.waiting(), 1U);
  Receive(first, 8 * kMiB);
  come_.acquire();
  EXPECT_TRUE(MaySend(third));
}

TEST(IngestSilenceTest, ASilentLinePassesOn) {
  std::counting_semaphore<> come{0};
  Ingest ingest(1ms);
  std::vector<Ingest::Turn> turns;
  for (int i = 0; i < 4; ++i) {
    turns.push_back(ingest.Join({.name = "line"}, {.payload = 8 * kMiB}, 0));
    if (turns[i].Await([&] { come.release(); })) come.release();
  }
  for (int i = 0; i < 4; ++i) come.acquire();  // though nobody has sent anything
  EXPECT_EQ(ingest.waiting(), 0U);
}

TEST(IngestSilenceTest, ASlowLineIsNotSilent) {
  Ingest ingest(1ms);
  const Ingest::Clock::time_point now = Ingest::Clock::now();
  std::vector<Ingest::Turn> turns;
  for (int i = 0; i < 4; ++i) {
    turns.push_back(
        ingest.Join({.name = "slow", .width = 4}, {.payload = 8 * kMiB}, 0, now - 250ms));
  }
  turns[0].Received(kMiB, true, now);  // so the next chunks of the four are a second away
  turns.push_back(ingest.Join({.name = "slow", .width = 4}, {.payload = 8 * kMiB}, 0, now));
  EXPECT_FALSE(turns[4].Await([] {}));
  // One that waits in a line of which nothing is known is told to send soon.
  std::binary_semaphore come{0};
  const Ingest::Turn hung = ingest.Join({.name = "hung"}, {.payload = 8 * kMiB}, 0);
  Ingest::Turn next = ingest.Join({.name = "hung"}, {.payload = 8 * kMiB}, 0);
  if (!next.Await([&] { come.release(); })) come.acquire();
  EXPECT_EQ(ingest.waiting(), 1U);
  turns[4].GiveUp();
}

TEST(IngestSilenceTest, WhatIsPassedOverStillCounts) {
  Ingest ingest(1ms);
  std::binary_semaphore come{0};
  const Ingest::Clock::time_point now = Ingest::Clock::now();
  Ingest::Turn first = ingest.Join({.name = "line"}, {.payload = 8 * kMiB}, 0, now - 5s);
  first.Received(kMiB, true, now - 4s);
  Ingest::Turn second = ingest.Join({.name = "line"}, {.payload = 8 * kMiB}, 0);
  if (!second.Await([&] { come.release(); })) come.acquire();
  // 7 MiB of the first and 8 of the second, at the slowest rate that is told from no rate.
  EXPECT_NEAR(ingest.Estimate({.name = "line"}, {.payload = 8 * kMiB}, 0).before, 15 / 4.0, 1e-6);
}

TEST_F(IngestTest, NothingIsEstimatedUntilSomethingIsKnown) {
  Ingest::Turn first = Join(8 * kMiB);
  EXPECT_EQ(Estimate(8 * kMiB).before, 0);
  EXPECT_EQ(Estimate(8 * kMiB).own, 0);
  Receive(first, kMiB);
  EXPECT_GT(Estimate(8 * kMiB).before, 0);
}

TEST_F(IngestTest, EstimatesByTheRateOfTheLine) {
  Ingest::Turn first = Join(10 * kMiB);
  Ingest::Turn second = Join(10 * kMiB);
  Receive(first, kMiB, 10ms);
  Receive(first, kMiB, 10ms);
  // 8 MiB are left of the first and 10 of the second, at 10 ms each.
  EXPECT_NEAR(Estimate(20 * kMiB).before, 0.18, 1e-9);
  EXPECT_NEAR(Estimate(20 * kMiB).own, 0.2, 1e-9);
  EXPECT_NEAR(ingest_.estimated_seconds(), 0.18, 1e-9);
  EXPECT_NEAR(Estimate(4 * kMiB).before, 0.08, 1e-9) << "a longer one sends as much beside it";
  EXPECT_NEAR(Estimate(20 * kMiB, 1).before, 0.08, 1e-9) << "it would go before the second";
  EXPECT_EQ(ingest_.Estimate({.name = "other"}, {.payload = kMiB}, 0, now_).own, 0);
}

// Its client may just have been late with what it sent.
TEST_F(IngestTest, ASlowLineForetellsNothingOfLongRequests) {
  Ingest::Turn first = Join(2 * kMiB);
  for (int i = 0; i < 5; ++i) Receive(first, 1000, 100ms);
  EXPECT_NEAR(Estimate(10'000).own, 1, 1e-9);
  EXPECT_NEAR(Estimate(10'000).before, 1, 1e-9);
  EXPECT_EQ(Estimate(kMiB).own, 0);
  EXPECT_EQ(Estimate(kMiB).before, 0);
}

TEST_F(IngestTest, TimeWithoutSendersIsNotTheLines) {
  Ingest::Turn first = Join(2 * kMiB);
  Receive(first, kMiB, 10ms);
  Receive(first, kMiB, 10ms);
  now_ += 5s;
  Ingest::Turn second = Join(2 * kMiB);
  Receive(second, kMiB, 10ms);
  EXPECT_NEAR(Estimate(kMiB).own, 0.01, 1e-9);
}

TEST_F(IngestTest, AnswersTravelToo) {
  Ingest::Turn first = ingest_.Join({.name = "line"}, {2 * kMiB, 4 * kMiB}, 0, now_);
  Receive(first, kMiB, 10ms);
  EXPECT_NEAR(Estimate(100 * kMiB).before, 0.05, 1e-9) << "1 MiB to come and 4 to leave";
  Receive(first, kMiB, 10ms);
  now_ += 5s;  // of computing, which is not the line's
  first.Computed(4 * kMiB, now_);
  EXPECT_NEAR(Estimate(100 * kMiB).before, 0.04, 1e-9);
  now_ += 10ms;
  first.Sent(kMiB, now_);
  EXPECT_NEAR(Estimate(100 * kMiB).before, 0.03, 1e-9);
  now_ += 30ms;
  first.Sent(3 * kMiB, now_);
  EXPECT_EQ(Estimate(100 * kMiB).before, 0);
  EXPECT_NEAR(Estimate(kMiB).own, 0.01, 1e-9);
  EXPECT_NEAR(ingest_.Estimate({.name = "line"}, {kMiB, kMiB}, 0, now_).own, 0.02, 1e-9);
}

TEST_F(IngestTest, ForgetsALineInWhichNothingHappens) {
  {
    Ingest::Turn first = Join(2 * kMiB);
    Receive(first, kMiB);
    Receive(first, kMiB, 10ms);
  }
  EXPECT_GT(Estimate(kMiB).own, 0);
  now_ += Ingest::kMemory + 1ms;
  EXPECT_EQ(Estimate(kMiB).own, 0);
}

}  // namespace
}  // namespace sage::server
