#include "client/cli/bench/grid.h"

#include "absl/strings/str_format.h"

namespace sage::cli {
namespace {

// Appends a copy of `base` for each mask, causality and precision.
void AppendVariants(const BenchGrid& grid, const BenchCase& base, std::vector<BenchCase>* cases) {
  const auto append = [&](const BenchCase& masked) {
    for (const bool is_causal : grid.causal) {
      for (const Precision precision : grid.precisions) {
        BenchCase& added = cases->emplace_back(masked);
        added.is_causal = is_causal;
        added.precision = precision;
      }
    }
  };
  BenchCase masked = base;
  for (const double sparsity : grid.sparsities) {
    masked.shape.density = 1 - sparsity;
    append(masked);
  }
  masked.shape.density = 1;
  for (const std::string& pattern : grid.patterns) {
    masked.pattern = pattern;
    append(masked);
  }
  if (grid.sparsities.empty() && grid.patterns.empty()) append(base);
}

}  // namespace

ProblemOptions BenchCase::problem_options() const {
  ProblemOptions options;
  options.dtype = dtype;
  options.layout = layout;
  options.pattern = pattern;
  options.is_causal = is_causal;
  return options;
}

std::string BenchCase::mask_name() const {
  return pattern.empty() ? absl::StrFormat("sparsity %g", 1 - shape.density) : pattern;
}

bool BenchCase::SameTensors(const BenchCase& other) const {
  return shape.batch == other.shape.batch && shape.num_heads_q == other.shape.num_heads_q &&
         shape.num_heads_kv == other.shape.num_heads_kv && shape.seqlen_q == other.shape.seqlen_q &&
         shape.seqlen_k == other.shape.seqlen_k && shape.head_dim == other.shape.head_dim &&
         shape.seed == other.shape.seed && dtype == other.dtype;
}

std::vector<BenchCase> Cases(const BenchGrid& grid) {
  std::vector<BenchCase> cases;
  BenchCase base;
  base.layout = grid.layout;
  base.shape.seed = grid.seed;
  for (const std::int64_t batch : grid.batches) {
    for (const std::int64_t heads : grid.heads) {
      for (const std::int64_t head_dim : grid.head_dims) {
        for (const DType dtype : grid.dtypes) {
          for (const std::int64_t seqlen : grid.seqlens) {
            base.shape.batch = batch;
            base.shape.num_heads_q = heads;
            base.shape.num_heads_kv = grid.num_heads_kv.value_or(heads);
            base.shape.seqlen_q = base.shape.seqlen_k = seqlen;
            base.shape.head_dim = head_dim;
            base.dtype = dtype;
            AppendVariants(grid, base, &cases);
          }
        }
      }
    }
  }
  return cases;
}

}  // namespace sage::cli
