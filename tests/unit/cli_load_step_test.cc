// Schedules and steps of a load test, in virtual time: what comes out is known.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "client/cli/load/arrivals.h"
#include "client/cli/load/latency_goal.h"
#include "client/cli/load/load_step.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/virtual_server.h"

namespace sage::cli {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using testing::VirtualServer;

std::uint64_t FreshSeed() {
  const std::uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << '\n';
  return seed;
}

double Milliseconds(Nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

LoadStep OpenLoop(double rate, Nanoseconds duration) {
  LoadStep step;
  step.arrivals = ArrivalKind::kConstant;
  step.rate = rate;
  step.duration = duration;
  return step;
}

LoadStep ClosedLoop(int concurrency, Nanoseconds duration) {
  LoadStep step;
  step.concurrency = concurrency;
  step.duration = duration;
  return step;
}

// A server with one worker, which takes `service` for each request.
std::function<Nanoseconds(Nanoseconds)> OneWorker(Nanoseconds service) {
  return [service, free = Nanoseconds(0)](Nanoseconds sent) mutable {
    free = std::max(free, sent) + service;
    return free;
  };
}

TEST(ArrivalsTest, ConstantOnesAreEvenlySpaced) {
  Arrivals arrivals(ArrivalKind::kConstant, {.rate = 200}, 0);
  for (int i = 1; i <= 1000; ++i) EXPECT_EQ(arrivals.Next(), i * 5ms);
}

TEST(ArrivalsTest, PoissonGapsAreExponentialAndIndependent) {
  Arrivals arrivals(ArrivalKind::kPoisson, {.rate = 1000}, FreshSeed());
  constexpr int kGaps = 200'000;
  std::vector<double> gaps;
  Nanoseconds before{0};
  for (int i = 0; i < kGaps; ++i) {
    const Nanoseconds now = arrivals.Next();
    ASSERT_GE(now, before);
    gaps.push_back(Milliseconds(now - before));
    before = now;
  }
  // Each bound is six standard errors.
  const double mean = std::accumulate(gaps.begin(), gaps.end(), 0.0) / kGaps;
  EXPECT_NEAR(mean, 1, 6 / std::sqrt(kGaps));
  double variance = 0;
  double covariance = 0;  // of neighbours
  for (int i = 1; i < kGaps; ++i) {
    variance += (gaps[i] - mean) * (gaps[i] - mean) / kGaps;
    covariance += (gaps[i] - mean) * (gaps[i - 1] - mean) / kGaps;
  }
  EXPECT_NEAR(variance, 1, 6 * std::sqrt(8.0 / kGaps));
  EXPECT_NEAR(covariance, 0, 6 / std::sqrt(kGaps));
  // Kolmogorov-Smirnov; 2.5 / sqrt(n) is exceeded once in 1e5 runs.
  std::sort(gaps.begin(), gaps.end());
  for (int i = 0; i < kGaps; ++i) {
    EXPECT_NEAR(1 - std::exp(-gaps[i]), static_cast<double>(i) / kGaps, 2.6 / std::sqrt(kGaps));
  }
}

TEST(ArrivalsTest, DependOnTheSeedAlone) {
  const RateCourse course = {.rate = 10};
  Arrivals a(ArrivalKind::kPoisson, course, 1);
  Arrivals b(ArrivalKind::kPoisson, course, 1);
  Arrivals c(ArrivalKind::kPoisson, course, 2);
  const Nanoseconds first = a.Next();
  EXPECT_EQ(first, b.Next());
  EXPECT_NE(first, c.Next());
}

TEST(ArrivalsTest, RampGrowsAlongALine) {
  // From 100/s to 300/s in 2 s: after t seconds 100 t + 50 t^2 requests were due, 400 in all.
  Arrivals arrivals(ArrivalKind::kConstant, {.rate_before = 100, .rate = 300, .ramp = 2s}, 0);
  for (int i = 1; i <= 400; ++i) {
    const double t = Milliseconds(arrivals.Next()) / 1e3;
    EXPECT_NEAR(100 * t + 50 * t * t, i, 1e-5);
  }
  EXPECT_NEAR(Milliseconds(arrivals.Next()), 2000 + 1e3 / 300, 1e-3);
  // From nothing, and downwards.
  Arrivals from_zero(ArrivalKind::kConstant, {.rate_before = 0, .rate = 100, .ramp = 2s}, 0);
  EXPECT_NEAR(Milliseconds(from_zero.Next()), 200, 1e-3);
  Arrivals down(ArrivalKind::kConstant, {.rate_before = 300, .rate = 100, .ramp = 2s}, 0);
  Nanoseconds last{0};
  for (int i = 0; i < 400; ++i) last = down.Next();
  EXPECT_NEAR(Milliseconds(last), 2000, 0.1);
}

TEST(OpenLoopTest, StatesAKnownDistribution) {
  std::mt19937_64 generator(FreshSeed());
  // 90% take 10 ms, 9% 100 ms, 1% 1 s.
  VirtualServer server([&](Nanoseconds sent) {
    const double x = std::uniform_real_distribution<double>()(generator);
    return sent + (x < 0.9 ? 10ms : x < 0.99 ? 100ms : 1000ms);
  });
  LoadStep step = OpenLoop(1000, 100s);
  step.arrivals = ArrivalKind::kPoisson;
  const StepResult result = RunStep(step, &server);
  EXPECT_NEAR(result.ok, 100'000, 6 * std::sqrt(100'000));
  const auto quantile = [&](double q) { return Milliseconds(result.latency.Quantile(q)); };
  // Buckets are a thousandth wide; the steps between the three values are six standard errors away.
  EXPECT_NEAR(quantile(0.5), 10, 0.01);
  EXPECT_NEAR(quantile(0.89), 10, 0.01);
  EXPECT_NEAR(quantile(0.91), 100, 0.1);
  EXPECT_NEAR(quantile(0.987), 100, 0.1);
  EXPECT_NEAR(quantile(0.993), 1000, 1);
  EXPECT_NEAR(quantile(0.9999), 1000, 1);
  EXPECT_EQ(result.max_send_delay, 0ns);
  EXPECT_EQ(result.failed, 0);
}

// Answers take a millisecond, but none comes between 4 s and 5 s.
Nanoseconds StalledForASecond(Nanoseconds sent) {
  const Nanoseconds answer = sent + 1ms;
  return answer >= 4s && answer < 5s ? Nanoseconds(5s) : answer;
}

TEST(OpenLoopTest, StatesHonestLatencyWhileTheServerStalls) {
  for (const int max_in_flight : {100'000, 10, 1}) {
    SCOPED_TRACE(max_in_flight);
    VirtualServer server(StalledForASecond);
    LoadStep step = OpenLoop(500, 10s);
    step.max_in_flight = max_in_flight;
    const StepResult result = RunStep(step, &server);
    EXPECT_LE(server.most_in_flight(), max_in_flight);
    EXPECT_NEAR(result.ok, 5000, 1);
    // A tenth of the requests was due during the stall, and waited for what was left of it.
    if (max_in_flight == 100'000) {
      EXPECT_NEAR(Milliseconds(result.latency.Quantile(0.95)), 500, 4);
      EXPECT_NEAR(Milliseconds(result.latency.Quantile(0.99)), 900, 4);
      EXPECT_NEAR(Milliseconds(result.latency.max()), 1000, 3);
      EXPECT_NEAR(Milliseconds(result.latency.Quantile(0.5)), 1, 0.01);
    } else {
      // They wait at the client instead, which counts all the same.
      EXPECT_GE(Milliseconds(result.latency.Quantile(0.99)), 896);
      EXPECT_GE(Milliseconds(result.max_send_delay), 900);
    }
    // What was sent, looked at by itself, hides it all where only a few can be under way.
    if (max_in_flight == 1) {
      EXPECT_LE(Milliseconds(result.service.Quantile(0.99)), 1.01);
    }
  }
}

TEST(OpenLoopTest, CountsFromWhenARequestWasDueWhereTheClientIsLate) {
  VirtualServer server([](Nanoseconds sent) { return sent + 1ms; });
  server.oversleep = 3ms;
  const StepResult result = RunStep(OpenLoop(100, 2s), &server);
  EXPECT_NEAR(Milliseconds(result.latency.Quantile(0.5)), 4, 0.01);
  EXPECT_NEAR(Milliseconds(result.service.Quantile(0.5)), 1, 0.01);
  EXPECT_NEAR(Milliseconds(result.max_send_delay), 3, 0.01);
}

TEST(OpenLoopTest, ShowsAnOverloadAsGrowingLatency) {
  VirtualServer server(OneWorker(10ms));  // 100/s
  const StepResult result = RunStep(OpenLoop(200, 10s), &server);
  EXPECT_NEAR(result.ok_per_second(), 100, 1);                  // what it can do
  EXPECT_NEAR(Milliseconds(result.latency.max()), 10'000, 50);  // the last of 2000
  EXPECT_NEAR(Milliseconds(result.latency.Quantile(0.5)), 5000, 30);
}

TEST(ClosedLoopTest, KeepsAsManyUnderWay) {
  for (const int concurrency : {1, 7, 64}) {
    VirtualServer server([](Nanoseconds sent) { return sent + 10ms; });
    const StepResult result = RunStep(ClosedLoop(concurrency, 2s), &server);
    EXPECT_EQ(server.most_in_flight(), concurrency);
    EXPECT_EQ(result.ok, 200 * concurrency);
    EXPECT_NEAR(result.ok_per_second(), 100 * concurrency, 0.01 * concurrency);
    EXPECT_EQ(result.ok, server.sent());
  }
}

TEST(ClosedLoopTest, RampIsNotPartOfTheFigures) {
  VirtualServer server([](Nanoseconds sent) { return sent + (sent < 2s ? 500ms : 10ms); });
  LoadStep step = ClosedLoop(8, 1s);
  step.load_before = 2;
  step.ramp = 2s;
  int most = 0;
  const StepResult result = RunStep(
      step, &server, [&](const LiveFigures& live) { most = std::max(most, live.in_flight); });
  EXPECT_LE(most, 8);
  EXPECT_LE(Milliseconds(result.latency.max()), 10.01);
  EXPECT_GT(result.all_ok, result.ok);
  EXPECT_EQ(result.all_ok, server.sent());
}

TEST(RunStepTest, EndsAfterACount) {
  for (LoadStep step : {ClosedLoop(3, Nanoseconds::max()), OpenLoop(50, Nanoseconds::max())}) {
    VirtualServer server([](Nanoseconds sent) { return sent + 10ms; });
    step.count = 100;
    const StepResult result = RunStep(step, &server);
    EXPECT_EQ(result.ok, 100);
    EXPECT_EQ(server.sent(), 100);
  }
}

TEST(RunStepTest, EndsEarlyWithWhatItHas) {
  VirtualServer server(OneWorker(100ms));
  server.stop_at = 3s;
  const StepResult result = RunStep(OpenLoop(1000, 100s), &server);
  EXPECT_TRUE(result.stopped);
  EXPECT_GE(result.ok, 1024);  // those that were under way
  EXPECT_LE(result.ok, 1100);
}

TEST(RunStepTest, CountsErrorsByCode) {
  VirtualServer server([](Nanoseconds sent) { return sent + 10ms; });
  server.report = [](std::int64_t i) -> absl::StatusOr<AttendReport> {
    if (i % 10 == 3) return absl::UnavailableError("gone");
    if (i % 10 == 7) return absl::ResourceExhaustedError("full");
    AttendReport report;
    report.bytes_in = 100;
    report.stages.total = 0.005;
    return report;
  };
  const StepResult result = RunStep(OpenLoop(100, 10s), &server);
  EXPECT_NEAR(result.failed, 200, 2);
  EXPECT_NEAR(result.errors.at("UNAVAILABLE").count, 100, 1);
  EXPECT_EQ(result.errors.at("UNAVAILABLE").example, "gone");
  EXPECT_EQ(result.errors.at("RESOURCE_EXHAUSTED").example, "full");
  EXPECT_EQ(result.latency.count(), result.ok);
  EXPECT_EQ(result.all_bytes_in, 100U * result.ok);
  EXPECT_NEAR(Milliseconds(result.server.Quantile(0.5)), 5, 0.01);
}

TEST(RunStepTest, IntervalsAddUp) {
  VirtualServer server(StalledForASecond);
  LoadStep step = OpenLoop(500, 10s);
  step.load_before = 100;
  step.ramp = 1s;
  const StepResult result = RunStep(step, &server);
  std::int64_t ok = 0;
  Nanoseconds end{0};
  for (const LoadInterval& interval : result.intervals) {
    EXPECT_EQ(interval.begin, end);
    end = interval.begin + interval.length;
    ok += interval.ok;
  }
  EXPECT_EQ(ok, result.all_ok);
  EXPECT_GE(result.intervals.size(), 10U);
  EXPECT_LE(result.intervals.size(), 13U);
}

TEST(LatencyGoalTest, ReadsItsForm) {
  const auto goal = ParseLatencyGoal("p99.9=1.5s");
  ASSERT_TRUE(goal.ok());
  EXPECT_DOUBLE_EQ(goal->quantile, 0.999);
  EXPECT_EQ(goal->limit, 1500ms);
  for (const char* text : {"", "p99", "99=1s", "p99=", "p99=5", "p0=1s", "p100=1s", "p99=-1s",
                           "p99=0s", "pxx=1s", "p99=2h"}) {
    EXPECT_THAT(ParseLatencyGoal(text).status().message(), HasSubstr("p99=50ms")) << text;
  }
}

TEST(LatencyGoalTest, FailedRequestsMissIt) {
  StepResult result;
  const std::vector<LatencyGoal> goals = {*ParseLatencyGoal("p90=10ms"),
                                          *ParseLatencyGoal("p50=5ms")};
  EXPECT_FALSE(Holds(goals, result));
  for (int i = 0; i < 90; ++i) result.latency.Add(4ms);
  for (int i = 0; i < 10; ++i) result.latency.Add(20ms);
  result.ok = 100;
  EXPECT_TRUE(Holds(goals, result));
  result.failed = 1;
  EXPECT_FALSE(Holds(goals, result));
  result.failed = 0;
  EXPECT_FALSE(Holds({*ParseLatencyGoal("p91=10ms")}, result));
}

TEST(LatencyGoalTest, FindsTheHighestRateFromAnywhere) {
  for (const double truth : {3.0, 100.0, 7777.0}) {
    for (const double first : {1.0, 90.0, 1000.0}) {
      int tries = 0;
      const double found = FindHighestRate(first, [&](double rate) {
        ++tries;
        return rate <= truth;
      });
      EXPECT_LE(found, truth);
      EXPECT_GE(found, truth / 1.05);
      EXPECT_LE(tries, 24);
    }
  }
  EXPECT_EQ(FindHighestRate(10, [](double) { return false; }), 0);
  EXPECT_EQ(FindHighestRate(
                10, [](double) { return true; }, [] { return false; }),
            0);
}

TEST(LatencyGoalTest, FindsWhatAQueueCanBear) {
  // One worker with constant service, 1 ms, and Poisson arrivals (M/D/1): the 99th percentile of
  // the time in the system reaches 10 ms at a load of about 0.77.
  const std::uint64_t seed = FreshSeed();
  const double found = FindHighestRate(100, [&](double rate) {
    VirtualServer server(OneWorker(1ms));
    LoadStep step = OpenLoop(rate, 200s);
    step.arrivals = ArrivalKind::kPoisson;
    step.seed = seed;
    return Holds({*ParseLatencyGoal("p99=10ms")}, RunStep(step, &server));
  });
  EXPECT_GE(found, 700);
  EXPECT_LE(found, 900);
}

}  // namespace
}  // namespace sage::cli
