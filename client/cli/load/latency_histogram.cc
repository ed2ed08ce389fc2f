#include "client/cli/load/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

namespace sage::cli {
namespace {

using Nanoseconds = LatencyHistogram::Nanoseconds;

constexpr Nanoseconds kLargest = std::chrono::hours(1);
// Values below 2^kExactBits have a bucket each. Of a larger value v, the bits past its first
// kExactBits are dropped: v >> shift is in [kHalf, 2 kHalf).
constexpr int kExactBits = 11;
constexpr std::int64_t kHalf = 1 << (kExactBits - 1);

int Shift(std::int64_t value) {
  return std::max(0,
                  static_cast<int>(std::bit_width(static_cast<std::uint64_t>(value))) - kExactBits);
}

std::size_t BucketOf(Nanoseconds value) {
  const std::int64_t clamped = std::clamp(value, Nanoseconds(0), kLargest).count();
  const int shift = Shift(clamped);
  return static_cast<std::size_t>(shift * kHalf + (clamped >> shift));
}

// The largest value of a bucket.
Nanoseconds EndOf(std::size_t bucket) {
  const auto index = static_cast<std::int64_t>(bucket);
  const std::int64_t shift = std::max<std::int64_t>(0, index / kHalf - 1);
  return Nanoseconds(((index - shift * kHalf + 1) << shift) - 1);
}

}  // namespace

LatencyHistogram::LatencyHistogram() : buckets_(BucketOf(kLargest) + 1) {}

void LatencyHistogram::Add(Nanoseconds value) {
  const Nanoseconds clamped = std::clamp(value, Nanoseconds(0), kLargest);
  ++buckets_[BucketOf(clamped)];
  ++count_;
  sum_ += static_cast<double>(clamped.count());
  min_ = std::min(min_, clamped);
  max_ = std::max(max_, clamped);
}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  for (std::size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  sum_ += other.sum_;
  min_ = std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
}

void LatencyHistogram::Clear() {
  std::fill(buckets_.begin(), buckets_.end(), 0);
  count_ = 0;
  sum_ = 0;
  min_ = Nanoseconds::max();
  max_ = Nanoseconds(0);
}

Nanoseconds LatencyHistogram::min() const { return count_ == 0 ? Nanoseconds(0) : min_; }

Nanoseconds LatencyHistogram::mean() const {
  return Nanoseconds(count_ == 0 ? 0 : std::llround(sum_ / static_cast<double>(count_)));
}

Nanoseconds LatencyHistogram::Quantile(double q) const {
  if (count_ == 0) return Nanoseconds(0);
  // Rounding must not push a product that is a whole number past it.
  const double wanted = std::ceil(q * static_cast<double>(count_) * (1 - 1e-12));
  const std::int64_t rank = std::clamp<std::int64_t>(static_cast<std::int64_t>(wanted), 1, count_);
  std::int64_t seen = 0;
  std::size_t bucket = 0;
  while ((seen += buckets_[bucket]) < rank) ++bucket;
  return std::min(EndOf(bucket), max_);
}

std::int64_t LatencyHistogram::CountUpTo(Nanoseconds limit) const {
  if (limit < Nanoseconds(0)) return 0;
  std::int64_t count = 0;
  for (std::size_t bucket = 0; bucket <= BucketOf(limit); ++bucket) count += buckets_[bucket];
  return count;
}

}  // namespace sage::cli
