#include "client/cli/load/arrivals.h"

#include <cmath>

namespace sage::cli {

Arrivals::Arrivals(ArrivalKind kind, const RateCourse& course, std::uint64_t seed)
    : kind_(kind), course_(course), generator_(seed) {}

std::chrono::nanoseconds Arrivals::Next() {
  // Unit rate first, then stretched in time: a Poisson process stays one.
  const double gap =
      kind_ == ArrivalKind::kConstant ? 1 : std::exponential_distribution<double>()(generator_);
  requests_ += gap;
  return When(requests_);
}

std::chrono::nanoseconds Arrivals::When(double requests) const {
  const double ramp = std::chrono::duration<double>(course_.ramp).count();
  const double in_ramp = ramp * (course_.rate_before + course_.rate) / 2;
  double seconds;
  if (requests < in_ramp) {
    // rate_before t + slope t^2 / 2 = requests, in the form that does not cancel.
    const double slope = (course_.rate - course_.rate_before) / ramp;
    const double root = std::sqrt(course_.rate_before * course_.rate_before + 2 * slope * requests);
    seconds = 2 * requests / (course_.rate_before + root);
  } else {
    seconds = ramp + (requests - in_ramp) / course_.rate;
  }
  constexpr double kNanosecondsPerSecond = 1e9;
  return std::chrono::nanoseconds(std::llround(seconds * kNanosecondsPerSecond));
}

}  // namespace sage::cli
