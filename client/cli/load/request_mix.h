// Which requests a load test sends, and how often each.
#ifndef SAGE_CLIENT_CLI_LOAD_REQUEST_MIX_H_
#define SAGE_CLIENT_CLI_LOAD_REQUEST_MIX_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/generated_case.h"
#include "client/cli/load/client_environment.h"

namespace sage::cli {

struct MixEntry {
  std::string name;
  double weight = 1;  // positive
  GeneratedCase generated;
};

// Reads a TOML file of [[shape]] tables. Each has weight (1), name, batch (1), heads (4), kv_heads
// (heads), seqlen (1024) or seqlen_q and seqlen_k, head_dim (128), dtype, layout, precision,
// causal, resident, and sparsity or pattern, with sagectl bench's names and meanings. Errors say
// file and line.
absl::StatusOr<std::vector<MixEntry>> ReadMix(const std::string& path);

// The tensors and masks of all entries. INVALID_ARGUMENT, beginning with an entry's name.
absl::StatusOr<std::vector<MixedInputs>> MakeInputs(const std::vector<MixEntry>& mix,
                                                    std::uint64_t seed);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_REQUEST_MIX_H_
