// The tensors and the mask of an attention, from files.
#ifndef SAGE_CLIENT_CLI_PROBLEM_INPUTS_H_
#define SAGE_CLIENT_CLI_PROBLEM_INPUTS_H_

#include <cstddef>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "client/attend_request.h"
#include "client/cli/problem_options.h"
#include "client/io/tensor_file.h"
#include "kernels/attention.h"
#include "kernels/block_mask.h"

namespace sage::cli {

// A valid problem and its operands, with what keeps them alive. Move-only.
struct ProblemInputs {
  AttentionProblem problem;
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  bool float32 = false;  // q, k, v hold fp32, to be sent as problem.dtype
  BlockMask mask;
  std::optional<MaskPattern> pattern;  // sent instead of `mask`, which holds its blocks
  bool prequantize = false;            // send q and k as int8

  std::vector<TensorFile> files;
  std::vector<std::vector<std::byte>> generated;
};

// Maps the files that `options` names and checks that they fit together. Errors say which files
// disagree and what both have.
absl::StatusOr<ProblemInputs> LoadInputs(const ProblemOptions& options);

// Sets everything of the problem but its shape and mask from `options`, checks the whole and reads
// the mask.
absl::Status FinishInputs(const ProblemOptions& options, ProblemInputs* inputs);

// A request for these inputs, which it borrows; the outputs are left to the caller.
AttendRequest MakeRequest(const ProblemInputs& inputs);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_PROBLEM_INPUTS_H_
