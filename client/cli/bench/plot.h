// Figures of a run of `sagectl bench`.
#ifndef SAGE_CLIENT_CLI_BENCH_PLOT_H_
#define SAGE_CLIENT_CLI_BENCH_PLOT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/bench/measurement.h"

namespace sage::cli {

// For measurements that differ in sequence length and mask only, two SVG files in `folder`, which
// is made where it does not exist: tops_NAME.svg, effective TOPS of the kernels against the
// sequence length with a line for each mask, and stages_NAME.svg, the median of each stage. NAME
// says what the measurements share. INVALID_ARGUMENT where a file cannot be written.
absl::Status WritePlots(const std::vector<Measurement>& measurements, const std::string& folder);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_BENCH_PLOT_H_
