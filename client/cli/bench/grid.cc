#include "client/cli/bench/grid.h"

namespace sage::cli {
namespace {

// Appends a copy of `base` for each mask, causality and precision.
void AppendVariants(const BenchGrid& grid, const GeneratedCase& base,
                    std::vector<GeneratedCase>* cases) {
  const auto append = [&](const GeneratedCase& masked) {
    for (const bool is_causal : grid.causal) {
      for (const Precision precision : grid.precisions) {
        for (const bool resident_kv : grid.resident_kv) {
          GeneratedCase& added = cases->emplace_back(masked);
          added.is_causal = is_causal;
          added.precision = precision;
          added.resident_kv = resident_kv;
        }
      }
    }
  };
  GeneratedCase masked = base;
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

std::vector<GeneratedCase> Cases(const BenchGrid& grid) {
  std::vector<GeneratedCase> cases;
  GeneratedCase base;
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
