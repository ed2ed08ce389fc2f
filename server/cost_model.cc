#include "server/cost_model.h"

#include <algorithm>

namespace sage::server {
namespace {

// Of the difference between estimate and observation that one launch corrects.
constexpr double kGain = 0.2;
// A launch is believed to have taken at most so many times as long as estimated: it may have waited
// for something else.
constexpr double kMostTimes = 4;

}  // namespace

void CostModel::Calibrate(const Rates& rates) {
  const std::lock_guard lock(mutex_);
  best_ = seen_ = rates;
}

double CostModel::Seconds(const DeviceWork& work) const {
  const std::lock_guard lock(mutex_);
  const Rates& rates = RatesAt(Clock::now());
  double seconds = 0;
  for (std::size_t i = 0; i < rates.size(); ++i) seconds += rates[i] * work[i];
  return seconds;
}

void CostModel::Observe(const DeviceWork& work, double seconds, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  seen_ = RatesAt(now);
  forgotten_ = now + kMemory;
  double estimate = 0;
  double squares = 0;
  for (std::size_t i = 0; i < seen_.size(); ++i) {
    const double part = seen_[i] * work[i];
    estimate += part;
    squares += part * part;
  }
  if (squares == 0) return;
  const double error = std::min(seconds, kMostTimes * estimate) - estimate;
  for (std::size_t i = 0; i < seen_.size(); ++i) {
    // Positive: the sum of n parts is at most n times the largest, and a launch has few kinds.
    const double factor = 1 + kGain * error * seen_[i] * work[i] / squares;
    seen_[i] *= std::max(0.5, factor);
    best_[i] = std::min(best_[i], seen_[i]);
  }
}

}  // namespace sage::server
