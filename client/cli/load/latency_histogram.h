// How often each latency was seen, in bounded memory.
#ifndef SAGE_CLIENT_CLI_LOAD_LATENCY_HISTOGRAM_H_
#define SAGE_CLIENT_CLI_LOAD_LATENCY_HISTOGRAM_H_

#include <chrono>
#include <cstdint>
#include <vector>

namespace sage::cli {

// Counts values from 0 to an hour in buckets that are never wider than 1/1024 of their values: up
// to 2 us to the nanosecond, from there on 1024 buckets for each power of two. Larger values count
// as an hour. 260 KiB. Not thread-safe.
//
// Source: HdrHistogram (Tene).
class LatencyHistogram {
 public:
  using Nanoseconds = std::chrono::nanoseconds;

  LatencyHistogram();

  void Add(Nanoseconds value);
  void Merge(const LatencyHistogram& other);
  void Clear();

  std::int64_t count() const { return count_; }
  // These are exact; 0 where nothing was added.
  Nanoseconds min() const;
  Nanoseconds max() const { return max_; }
  Nanoseconds mean() const;

  // The smallest value that at least q * count() values do not exceed, q in [0, 1], up to the width
  // of its bucket and never below it. 0 where nothing was added.
  Nanoseconds Quantile(double q) const;
  // Values that are at most `limit`, up to the width of its bucket.
  std::int64_t CountUpTo(Nanoseconds limit) const;

 private:
  std::vector<std::int64_t> buckets_;
  std::int64_t count_ = 0;
  double sum_ = 0;
  Nanoseconds min_ = Nanoseconds::max();
  Nanoseconds max_{0};
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_LATENCY_HISTOGRAM_H_
