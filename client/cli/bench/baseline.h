// A run of `sagectl bench` beside an earlier one.
#ifndef SAGE_CLIENT_CLI_BENCH_BASELINE_H_
#define SAGE_CLIENT_CLI_BENCH_BASELINE_H_

#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace sage::cli {

// Reads what `sagectl bench --json` wrote. INVALID_ARGUMENT, beginning with the file's name, for
// anything else.
absl::StatusOr<nlohmann::ordered_json> ReadBaseline(const std::string& path);

// A row for each case that both runs have: medians of call and kernels before and now, and their
// change. A change is marked where the ranges between the quartiles do not even touch.
void PrintChanges(const nlohmann::ordered_json& before, const nlohmann::ordered_json& now,
                  std::ostream& out);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_BENCH_BASELINE_H_
