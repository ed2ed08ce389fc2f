// One point of the grid, measured.
#ifndef SAGE_CLIENT_CLI_BENCH_MEASUREMENT_H_
#define SAGE_CLIENT_CLI_BENCH_MEASUREMENT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/bench/grid.h"
#include "client/cli/problem_inputs.h"
#include "client/cli/verdict.h"
#include "client/client.h"

namespace sage::cli {

// Quartiles by linear interpolation between order statistics.
struct Spread {
  double median = 0;
  double q1 = 0;
  double q3 = 0;
  double min = 0;
  double max = 0;
};

// Of at least one value.
Spread Summarize(std::vector<double> values);

struct Measurement {
  GeneratedCase generated;
  AttentionProblem problem;
  // Why there are no figures: what the server answered. The rest is then left alone.
  absl::Status status;
  double block_density = 0;
  std::uint64_t bytes_in = 0;   // of one call
  std::uint64_t bytes_out = 0;  // of one call
  // Seconds by StageTimes()' names, in its order.
  std::vector<std::pair<std::string, Spread>> stages;
  std::optional<Verdict> verdict;  // where asked for

  // ShapeName(), and whether K and V are resident.
  std::string name() const;
  // `stage` is one of StageTimes()' names.
  const Spread& stage(const std::string& name) const;
  // Effective operations over the median of the kernels' time and of the call's: 1e12/s.
  double kernel_tops() const { return tops("kernel"); }
  double call_tops() const { return tops("wall"); }
  // Payload both ways over the median of the call's time: 1e9 bytes/s.
  double gb_per_second() const;

 private:
  double tops(const std::string& stage) const;
};

struct MeasureOptions {
  int warmup = 2;
  int repeat = 10;  // at least 1
  bool verify = false;
};

// Sends `inputs`, one call after the other, K and V once before where they are to be resident.
// `call_done` is called after each call, warm-up and
// verification included.
Measurement Measure(Client* client, const GeneratedCase& generated, const ProblemInputs& inputs,
                    const MeasureOptions& options, const std::function<void()>& call_done);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_BENCH_MEASUREMENT_H_
