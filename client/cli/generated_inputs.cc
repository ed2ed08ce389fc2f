#include "client/cli/generated_inputs.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <random>
#include <utility>

#include "client/cli/parallel_for.h"
#include "kernels/float16.h"

namespace sage::cli {
namespace {

// One stream of random numbers for each (seed, purpose, index), so that threads need not share one.
std::mt19937_64 Generator(std::uint64_t seed, std::uint32_t purpose, std::int64_t index) {
  std::seed_seq sequence{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32),
                         purpose, static_cast<std::uint32_t>(index),
                         static_cast<std::uint32_t>(index >> 32)};
  return std::mt19937_64(sequence);
}

constexpr std::uint32_t kMaskPurpose = 3;  // after q, k and v

std::vector<std::byte> NormalTensor(std::int64_t elements, DType dtype, std::uint64_t seed,
                                    std::uint32_t purpose) {
  constexpr std::int64_t kPart = 1 << 16;
  std::vector<std::byte> tensor(elements * SizeOf(dtype));
  ParallelFor(CeilDiv(elements, kPart), [&](std::int64_t part) {
    std::mt19937_64 generator = Generator(seed, purpose, part);
    std::normal_distribution<float> normal;
    const std::int64_t end = std::min(elements, (part + 1) * kPart);
    for (std::int64_t i = part * kPart; i < end; ++i) {
      const float x = normal(generator);
      const std::uint16_t bits = dtype == DType::kFloat16 ? ToFloat16(x).bits : ToBFloat16(x).bits;
      std::memcpy(tensor.data() + i * sizeof(bits), &bits, sizeof(bits));
    }
  });
  return tensor;
}

}  // namespace

absl::StatusOr<ProblemInputs> GenerateInputs(const GeneratedShape& shape,
                                             const ProblemOptions& options) {
  ProblemInputs inputs;
  AttentionProblem& problem = inputs.problem;
  problem.batch = shape.batch;
  problem.num_heads_q = shape.num_heads_q;
  problem.num_heads_kv = shape.num_heads_kv;
  problem.seqlen_q = shape.seqlen_q;
  problem.seqlen_k = shape.seqlen_k;
  problem.head_dim = shape.head_dim;
  problem.dtype = options.dtype;
  if (absl::Status status = ChangeOptions(shape, options, &inputs); !status.ok()) return status;
  const std::int64_t elements[] = {problem.q_elements(), problem.kv_elements(),
                                   problem.kv_elements()};
  for (std::uint32_t tensor = 0; tensor < std::size(elements); ++tensor) {
    inputs.generated.push_back(NormalTensor(elements[tensor], problem.dtype, shape.seed, tensor));
  }
  inputs.q = inputs.generated[0].data();
  inputs.k = inputs.generated[1].data();
  inputs.v = inputs.generated[2].data();
  return inputs;
}

absl::Status ChangeOptions(const GeneratedShape& shape, const ProblemOptions& options,
                           ProblemInputs* inputs) {
  inputs->mask = BlockMask();
  inputs->pattern.reset();
  if (absl::Status status = FinishInputs(options, inputs); !status.ok()) return status;
  if (shape.density == 1) return absl::OkStatus();
  const AttentionProblem& problem = inputs->problem;
  const std::vector<std::uint8_t> blocks =
      RandomBlocks(problem.batch * problem.num_heads_q, problem.tiles_q(), problem.blocks_k(),
                   shape.density, shape.seed);
  absl::StatusOr<BlockMask> mask =
      BlockMask::FromDense(problem, problem.batch, problem.num_heads_q, blocks);
  if (!mask.ok()) return mask.status();
  inputs->mask = *std::move(mask);
  return absl::OkStatus();
}

std::vector<std::uint8_t> RandomBlocks(std::int64_t maps, std::int64_t tiles_q,
                                       std::int64_t blocks_k, double density, std::uint64_t seed) {
  const std::int64_t size = tiles_q * blocks_k;
  const auto wanted = static_cast<std::int64_t>(std::llround(density * static_cast<double>(size)));
  std::vector<std::uint8_t> blocks(maps * size);
  ParallelFor(maps, [&](std::int64_t map) {
    std::mt19937_64 generator = Generator(seed, kMaskPurpose, map);
    // Selection sampling: each block with the probability that makes the count come out exactly.
    std::int64_t missing = wanted;
    for (std::int64_t i = 0; i < size && missing > 0; ++i) {
      if (std::uniform_int_distribution<std::int64_t>(0, size - i - 1)(generator) < missing) {
        blocks[map * size + i] = 1;
        --missing;
      }
    }
  });
  return blocks;
}

}  // namespace sage::cli
