// An attention problem in words and in JSON, the same in every subcommand's output.
#ifndef SAGE_CLIENT_CLI_PROBLEM_TEXT_H_
#define SAGE_CLIENT_CLI_PROBLEM_TEXT_H_

#include <string>

#include "kernels/attention.h"
#include "nlohmann/json.hpp"

namespace sage::cli {

// "B1 H8/2 S1000x3000 D128 fp16 HND causal": Hq/Hkv and SqxSk where they differ.
std::string ShapeName(const AttentionProblem& problem);

// An object of the dimensions, types, layout, precision and causality.
nlohmann::ordered_json ProblemJson(const AttentionProblem& problem);

// JSON has no NaN and no infinity; null says that the figure is not a finite number.
nlohmann::ordered_json JsonNumber(double value);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_PROBLEM_TEXT_H_
