#include "client/cli/generated_case.h"

#include "absl/strings/str_format.h"

namespace sage::cli {

ProblemOptions GeneratedCase::problem_options() const {
  ProblemOptions options;
  options.dtype = dtype;
  options.layout = layout;
  options.pattern = pattern;
  options.is_causal = is_causal;
  return options;
}

std::string GeneratedCase::mask_name() const {
  return pattern.empty() ? absl::StrFormat("sparsity %g", 1 - shape.density) : pattern;
}

bool GeneratedCase::SameTensors(const GeneratedCase& other) const {
  return shape.batch == other.shape.batch && shape.num_heads_q == other.shape.num_heads_q &&
         shape.num_heads_kv == other.shape.num_heads_kv && shape.seqlen_q == other.shape.seqlen_q &&
         shape.seqlen_k == other.shape.seqlen_k && shape.head_dim == other.shape.head_dim &&
         shape.seed == other.shape.seed && dtype == other.dtype;
}

}  // namespace sage::cli
