// When the requests of an open loop are due.
#ifndef SAGE_CLIENT_CLI_LOAD_ARRIVALS_H_
#define SAGE_CLIENT_CLI_LOAD_ARRIVALS_H_

#include <chrono>
#include <cstdint>
#include <random>

namespace sage::cli {

enum class ArrivalKind {
  kPoisson,   // independent of each other: exponential gaps
  kConstant,  // evenly spaced
};

// Requests a second over time: from `rate_before` to `rate` along a straight line while `ramp`
// lasts, then `rate`.
struct RateCourse {
  double rate_before = 0;
  double rate = 0;  // positive
  std::chrono::nanoseconds ramp{0};
};

// An endless, increasing series of moments, counted from the begin of the ramp. A function of its
// arguments alone. Not thread-safe.
class Arrivals {
 public:
  Arrivals(ArrivalKind kind, const RateCourse& course, std::uint64_t seed);

  std::chrono::nanoseconds Next();

 private:
  // When `requests` requests are due by the course: the inverse of its integral.
  std::chrono::nanoseconds When(double requests) const;

  const ArrivalKind kind_;
  const RateCourse course_;
  std::mt19937_64 generator_;
  double requests_ = 0;
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_ARRIVALS_H_
