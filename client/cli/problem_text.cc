#include "client/cli/problem_text.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace sage::cli {

std::string ShapeName(const AttentionProblem& problem) {
  std::string name = absl::StrCat("B", problem.batch, " H", problem.num_heads_q);
  if (problem.num_heads_kv != problem.num_heads_q)
    absl::StrAppend(&name, "/", problem.num_heads_kv);
  absl::StrAppend(&name, " S", problem.seqlen_q);
  if (problem.seqlen_k != problem.seqlen_q) absl::StrAppend(&name, "x", problem.seqlen_k);
  absl::StrAppend(&name, " D", problem.head_dim, " ", std::string(Name(problem.dtype)), " ",
                  std::string(Name(problem.layout)), problem.is_causal ? " causal" : "");
  return name;
}

nlohmann::ordered_json ProblemJson(const AttentionProblem& problem) {
  return {{"batch", problem.batch},
          {"num_heads_q", problem.num_heads_q},
          {"num_heads_kv", problem.num_heads_kv},
          {"seqlen_q", problem.seqlen_q},
          {"seqlen_k", problem.seqlen_k},
          {"head_dim", problem.head_dim},
          {"layout", Name(problem.layout)},
          {"dtype", Name(problem.dtype)},
          {"output_dtype", Name(problem.output_dtype)},
          {"precision", Name(problem.precision)},
          {"is_causal", problem.is_causal}};
}

nlohmann::ordered_json JsonNumber(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

}  // namespace sage::cli
