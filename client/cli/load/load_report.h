// The results of `sagectl load` as table, JSON and CSV.
#ifndef SAGE_CLIENT_CLI_LOAD_LOAD_REPORT_H_
#define SAGE_CLIENT_CLI_LOAD_LOAD_REPORT_H_

#include <array>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "client/cli/load/latency_goal.h"
#include "client/cli/load/load_step.h"
#include "client/cli/load/request_mix.h"
#include "client/cli/load/server_counts.h"
#include "nlohmann/json.hpp"

namespace sage::cli {

struct MeasuredStep {
  StepResult result;
  // The servers' own figures for the whole step, and the client's time between their readings.
  std::vector<ServerCounts> servers;
  double seconds_between_readings = 0;
  std::optional<bool> goals_held;  // where there are goals

  // Requests of the whole step, ramp included, that succeeded, a second: what the client says.
  double client_ok_per_second() const;
  // What the servers say, together; absent where one of them did not answer.
  std::optional<double> server_ok_per_second() const;
};

struct LoadRun {
  std::vector<std::string> targets;
  int connections = 1;  // to each of them
  std::vector<MixEntry> mix;
  std::vector<LatencyGoal> goals;
  std::optional<double> highest_rate;  // at which the goals hold; 0: none found
  std::vector<MeasuredStep> steps;
};

struct NamedQuantile {
  const char* name;
  double q;
};
inline constexpr std::array<NamedQuantile, 7> kQuantiles = {{{"p50", 0.5},
                                                             {"p75", 0.75},
                                                             {"p90", 0.9},
                                                             {"p95", 0.95},
                                                             {"p99", 0.99},
                                                             {"p99.9", 0.999},
                                                             {"p99.99", 0.9999}}};

// "concurrency 8" or "poisson 120/s".
std::string LoadName(const LoadStep& step);
// "12.3 ms", with three digits or so.
std::string DurationText(Nanoseconds duration);

// Tables, a row a step after one of names: what the steps showed; the client's count beside the
// servers'; and errors, a row for each code of a step.
using TextRows = std::vector<std::vector<std::string>>;
TextRows StepRows(const LoadRun& run);
TextRows AgreementRows(const LoadRun& run);
TextRows ErrorRows(const LoadRun& run);
// "highest rate with p99=50ms: 120/s"; empty where there are no goals.
std::string GoalText(const LoadRun& run);

void PrintLoadTables(const LoadRun& run, std::ostream& out);
nlohmann::ordered_json LoadJson(const LoadRun& run);
// A line a step, after one of names.
std::string LoadCsv(const LoadRun& run);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_LOAD_REPORT_H_
