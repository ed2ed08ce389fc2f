// A server's answer, judged: the float64 reference and the limits of each precision.
#ifndef SAGE_CLIENT_CLI_VERDICT_H_
#define SAGE_CLIENT_CLI_VERDICT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/comparison.h"
#include "client/cli/problem_inputs.h"
#include "client/cli/resident_kv.h"
#include "client/client.h"
#include "nlohmann/json.hpp"

namespace sage::cli {

struct Verdict {
  AttentionProblem problem;
  AttendReport report;
  Comparison comparison;
  double limit = 0;                 // of the relative L2
  std::vector<std::string> faults;  // empty: passed

  bool passed() const { return faults.empty(); }
};

// Sends `inputs`, whose tensors hold elements of problem.dtype, asking for lse too, and judges the
// answer; `seed` draws the rows that are looked at. `limit` absent: that of the precision for
// N(0,1)-like data. `resident`, where given, are K and V of `inputs`. Errors are those of the call;
// a wrong answer is none.
absl::StatusOr<Verdict> Verify(
    Client* client, const ProblemInputs& inputs, std::optional<double> limit, std::uint64_t seed,
    const ResidentKv* resident = nullptr,
    std::function<void(std::int64_t done, std::int64_t total)> on_unit_done = {});

// The figures of the comparison and whether it passed; not the problem.
nlohmann::ordered_json VerdictJson(const Verdict& verdict);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_VERDICT_H_
