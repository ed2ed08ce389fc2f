#include "client/cli/load/latency_goal.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"

namespace sage::cli {

absl::StatusOr<LatencyGoal> ParseLatencyGoal(const std::string& text) {
  const std::pair<std::string, std::string> sides = absl::StrSplit(text, absl::MaxSplits('=', 1));
  double percent = 0;
  absl::Duration limit;
  if (sides.first.size() < 2 || sides.first[0] != 'p' ||
      !absl::SimpleAtod(sides.first.substr(1), &percent) || !(percent > 0 && percent < 100) ||
      !absl::ParseDuration(sides.second, &limit) || limit <= absl::ZeroDuration() ||
      limit > absl::Hours(1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--slo '", text, "': must be pPERCENT=DURATION, up to an hour, for instance p99=50ms"));
  }
  return LatencyGoal{
      .text = text, .quantile = percent / 100, .limit = absl::ToChronoNanoseconds(limit)};
}

bool Holds(const std::vector<LatencyGoal>& goals, const StepResult& result) {
  const auto requests = static_cast<double>(result.ok + result.failed);
  return requests > 0 && std::all_of(goals.begin(), goals.end(), [&](const LatencyGoal& goal) {
           return static_cast<double>(result.latency.CountUpTo(goal.limit)) >=
                  goal.quantile * requests;
         });
}

double FindHighestRate(double first, const std::function<bool(double rate)>& holds,
                       const std::function<bool()>& more) {
  constexpr double kPrecision = 1.05;
  constexpr double kMostDown = 1e-3;
  constexpr double kMostUp = 1e6;
  double good = 0;
  double bad = 0;  // 0: none found
  for (double rate = first; good == 0 || bad == 0;) {
    if (rate < kMostDown * first || rate > kMostUp * first || !more()) return good;
    (holds(rate) ? good : bad) = rate;
    rate = good == 0 ? bad / 2 : good * 2;
  }
  while (bad / good > kPrecision && more()) {
    const double rate = (good + bad) / 2;
    (holds(rate) ? good : bad) = rate;
  }
  return good;
}

}  // namespace sage::cli
