// What latency a service promises, and the highest rate at which it holds.
#ifndef SAGE_CLIENT_CLI_LOAD_LATENCY_GOAL_H_
#define SAGE_CLIENT_CLI_LOAD_LATENCY_GOAL_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/load/load_step.h"

namespace sage::cli {

// This share of the requests must succeed within the limit.
struct LatencyGoal {
  std::string text;  // as it was written
  double quantile = 0;
  Nanoseconds limit{0};
};

// "p99=50ms", "p99.9=1.5s". INVALID_ARGUMENT saying what is right.
absl::StatusOr<LatencyGoal> ParseLatencyGoal(const std::string& text);

// Whether the step met all goals; a request that failed met none. A step without requests meets
// none either.
bool Holds(const std::vector<LatencyGoal>& goals, const StepResult& result);

// The highest rate, within 5%, that `holds` accepts, assuming that it accepts all lower ones: from
// `first` on by doubling or halving, then between. 0 where even a thousandth of `first` is too
// much; at most a million times `first`. `more` is asked before each further try.
double FindHighestRate(
    double first, const std::function<bool(double rate)>& holds,
    const std::function<bool()>& more = [] { return true; });

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_LATENCY_GOAL_H_
