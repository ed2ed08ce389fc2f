// Block masks in tensor files.
#ifndef SAGE_CLIENT_CLI_MASK_FILE_H_
#define SAGE_CLIENT_CLI_MASK_FILE_H_

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/io/tensor_view.h"
#include "kernels/attention.h"
#include "kernels/block_mask.h"

namespace sage::cli {

// [batch, heads, tiles_q, blocks_k], one byte a block. Does not own.
struct DenseMask {
  std::array<std::int64_t, 4> shape{};
  std::span<const std::uint8_t> blocks;
};

// A bool or uint8 tensor of 2 to 4 dimensions, missing leading ones being 1, none of them 0.
// INVALID_ARGUMENT, beginning with `name`.
absl::StatusOr<DenseMask> AsDenseMask(const std::string& name, const TensorView& tensor);

// INVALID_ARGUMENT saying what shape is right unless the mask is one for `problem`.
absl::StatusOr<BlockMask> AsBlockMask(const AttentionProblem& problem, const std::string& name,
                                      const DenseMask& mask);

// Writes a bool tensor of these blocks; in .safetensors it is named `mask`.
absl::Status WriteMask(const std::string& path, const DenseMask& mask);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_MASK_FILE_H_
