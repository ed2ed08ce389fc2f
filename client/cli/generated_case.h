// A generated problem that is sent many times.
#ifndef SAGE_CLIENT_CLI_GENERATED_CASE_H_
#define SAGE_CLIENT_CLI_GENERATED_CASE_H_

#include <string>

#include "client/cli/generated_inputs.h"
#include "client/cli/problem_options.h"
#include "kernels/attention.h"

namespace sage::cli {

struct GeneratedCase {
  GeneratedShape shape;
  DType dtype = DType::kFloat16;
  Layout layout = Layout::kHnd;
  std::string pattern;  // empty: the random mask of shape.density
  bool is_causal = false;
  Precision precision = Precision::kQkInt8PvFp16;
  bool resident_kv = false;  // K and V are put at the server once, before the requests

  ProblemOptions problem_options() const;
  // "sparsity 0.5", or the pattern.
  std::string mask_name() const;
  // Whether the two have the same q, k and v.
  bool SameTensors(const GeneratedCase& other) const;
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_GENERATED_CASE_H_
