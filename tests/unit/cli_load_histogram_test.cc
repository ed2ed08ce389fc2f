// Latency histograms against sorted samples and known distributions.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <random>
#include <vector>

#include "client/cli/load/latency_histogram.h"
#include "gtest/gtest.h"

namespace sage::cli {
namespace {

using namespace std::chrono_literals;
using Nanoseconds = LatencyHistogram::Nanoseconds;

// Relative width of a bucket.
constexpr double kResolution = 1.0 / 1024;

std::uint64_t FreshSeed() {
  const std::uint64_t seed = std::random_device{}();
  std::cout << "seed " << seed << '\n';
  return seed;
}

TEST(LatencyHistogramTest, IsEmptyAtFirst) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0);
  EXPECT_EQ(histogram.Quantile(0.99), 0ns);
  EXPECT_EQ(histogram.min(), 0ns);
  EXPECT_EQ(histogram.mean(), 0ns);
  EXPECT_EQ(histogram.CountUpTo(1h), 0);
}

TEST(LatencyHistogramTest, IsExactForSmallValues) {
  LatencyHistogram histogram;
  for (int i = 1; i <= 1000; ++i) histogram.Add(Nanoseconds(i));
  for (int percent = 1; percent <= 100; ++percent) {
    EXPECT_EQ(histogram.Quantile(percent / 100.0), Nanoseconds(10 * percent)) << percent;
  }
  EXPECT_EQ(histogram.Quantile(0), 1ns);
  EXPECT_EQ(histogram.CountUpTo(250ns), 250);
  EXPECT_EQ(histogram.mean(), 501ns);  // 500.5, rounded
}

TEST(LatencyHistogramTest, StatesAnyValueWithinItsResolution) {
  for (std::int64_t value = 1; value < 3'600'000'000'000; value += value / 3 + 1) {
    LatencyHistogram histogram;
    histogram.Add(Nanoseconds(value));
    histogram.Add(2h);  // so that the first is not the largest, which is exact
    const std::int64_t stated = histogram.Quantile(0.5).count();
    EXPECT_GE(stated, value);
    EXPECT_LE(static_cast<double>(stated), static_cast<double>(value) * (1 + kResolution));
    EXPECT_EQ(histogram.min(), Nanoseconds(value));
  }
}

TEST(LatencyHistogramTest, BoundsWhatItTakes) {
  LatencyHistogram histogram;
  histogram.Add(-5ns);
  histogram.Add(100h);
  EXPECT_EQ(histogram.min(), 0ns);
  EXPECT_EQ(histogram.max(), 1h);
  EXPECT_EQ(histogram.Quantile(1), 1h);
  EXPECT_EQ(histogram.CountUpTo(-1ns), 0);
}

TEST(LatencyHistogramTest, AgreesWithSortedSamples) {
  std::mt19937_64 generator(FreshSeed());
  std::lognormal_distribution<double> distribution(std::log(5e6), 1.5);  // median 5 ms, long tail
  std::vector<std::int64_t> samples(100'000);
  LatencyHistogram histogram;
  for (std::int64_t& sample : samples) {
    sample = static_cast<std::int64_t>(distribution(generator));
    histogram.Add(Nanoseconds(sample));
  }
  std::sort(samples.begin(), samples.end());
  for (const double q : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0}) {
    const auto rank = static_cast<std::size_t>(std::ceil(q * samples.size() - 1e-6));
    const auto exact = static_cast<double>(samples[rank - 1]);
    EXPECT_GE(histogram.Quantile(q).count(), exact) << q;
    EXPECT_LE(histogram.Quantile(q).count(), exact * (1 + kResolution)) << q;
  }
}

TEST(LatencyHistogramTest, KnowsTheExponentialDistribution) {
  std::mt19937_64 generator(FreshSeed());
  std::exponential_distribution<double> distribution(1 / 20e6);  // mean 20 ms
  LatencyHistogram histogram;
  constexpr int kSamples = 1'000'000;
  for (int i = 0; i < kSamples; ++i) {
    histogram.Add(Nanoseconds(std::llround(distribution(generator))));
  }
  for (const double q : {0.5, 0.9, 0.99, 0.999}) {
    const double exact = -20e6 * std::log(1 - q);
    // Six standard errors of a sample quantile, sqrt(q (1 - q) / n) / density, and a bucket.
    const double error = 20e6 * std::sqrt(q / (1 - q) / kSamples);
    EXPECT_NEAR(histogram.Quantile(q).count(), exact, 6 * error + exact * kResolution) << q;
  }
  EXPECT_NEAR(histogram.mean().count(), 20e6, 6 * 20e6 / std::sqrt(kSamples));
}

TEST(LatencyHistogramTest, MergesAsIfAddedToOne) {
  std::mt19937_64 generator(FreshSeed());
  std::uniform_int_distribution<std::int64_t> distribution(0, 1'000'000'000);
  LatencyHistogram all;
  LatencyHistogram a;
  LatencyHistogram b;
  for (int i = 0; i < 1000; ++i) {
    const Nanoseconds value(distribution(generator));
    all.Add(value);
    (i % 3 == 0 ? a : b).Add(value);
  }
  a.Merge(b);
  a.Merge(LatencyHistogram());
  EXPECT_EQ(a.count(), all.count());
  EXPECT_EQ(a.min(), all.min());
  EXPECT_EQ(a.max(), all.max());
  EXPECT_EQ(a.mean(), all.mean());
  for (double q = 0; q <= 1; q += 0.01) EXPECT_EQ(a.Quantile(q), all.Quantile(q));
  a.Clear();
  EXPECT_EQ(a.count(), 0);
  EXPECT_EQ(a.Quantile(1), 0ns);
}

}  // namespace
}  // namespace sage::cli
