// Options that describe an attention, shared by the subcommands that send one.
#ifndef SAGE_CLIENT_CLI_PROBLEM_OPTIONS_H_
#define SAGE_CLIENT_CLI_PROBLEM_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/App.hpp"
#include "absl/status/status.h"
#include "kernels/attention.h"

namespace sage::cli {

struct ProblemOptions {
  // Files; all empty where inputs are generated.
  std::string q;
  std::string k;
  std::string v;
  std::string in;
  std::string mask;
  std::string pattern;

  Layout layout = Layout::kHnd;
  DType dtype = DType::kFloat16;  // of generated inputs, and what fp32 files are sent as
  std::optional<DType> output_dtype;
  bool is_causal = false;
  std::optional<float> softmax_scale;
  std::vector<std::int64_t> seqlens_q;
  std::vector<std::int64_t> seqlens_k;
  bool prequantize = false;

  bool has_files() const { return !q.empty() || !k.empty() || !v.empty() || !in.empty(); }
};

void AddProblemOptions(CLI::App* command, ProblemOptions* options);

// INVALID_ARGUMENT where the options cannot be had with `precision`.
absl::Status CheckPrecision(const ProblemOptions& options, Precision precision);

// Add options whose values are names.
void AddLayoutOption(CLI::App* command, Layout* layout);
void AddDTypeOption(CLI::App* command, DType* dtype);  // fp16, bf16
void AddDTypeOption(CLI::App* command, std::vector<DType>* dtypes);
void AddPrecisionOption(CLI::App* command, Precision* precision);
void AddPrecisionOption(CLI::App* command, std::vector<Precision>* precisions);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_PROBLEM_OPTIONS_H_
