// Random problems, for verification without files.
#ifndef SAGE_CLIENT_CLI_GENERATED_INPUTS_H_
#define SAGE_CLIENT_CLI_GENERATED_INPUTS_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/problem_inputs.h"
#include "client/cli/problem_options.h"

namespace sage::cli {

struct GeneratedShape {
  std::int64_t batch = 1;
  std::int64_t num_heads_q = 4;
  std::int64_t num_heads_kv = 4;
  std::int64_t seqlen_q = 1024;
  std::int64_t seqlen_k = 1024;
  std::int64_t head_dim = 128;
  double density = 1;  // of a random mask per head; 1: no mask of its own
  std::uint64_t seed = 0;
};

// q, k, v from N(0, 1), a function of the seed alone, held in memory. The mask is random where
// `density` is below 1, else that of `options`.
absl::StatusOr<ProblemInputs> GenerateInputs(const GeneratedShape& shape,
                                             const ProblemOptions& options);

// Gives inputs made before another mask, causality, layout and the like, leaving their tensors.
absl::Status ChangeOptions(const GeneratedShape& shape, const ProblemOptions& options,
                           ProblemInputs* inputs);

// One byte a block, [maps, tiles_q, blocks_k]: in each map, round(density * tiles_q * blocks_k)
// blocks are 1, drawn evenly. A function of the seed alone.
std::vector<std::uint8_t> RandomBlocks(std::int64_t maps, std::int64_t tiles_q,
                                       std::int64_t blocks_k, double density, std::uint64_t seed);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_GENERATED_INPUTS_H_
