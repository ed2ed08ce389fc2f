// What `sagectl bench` measures: every combination of some values a dimension.
#ifndef SAGE_CLIENT_CLI_BENCH_GRID_H_
#define SAGE_CLIENT_CLI_BENCH_GRID_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/cli/generated_case.h"
#include "kernels/attention.h"

namespace sage::cli {

struct BenchGrid {
  std::vector<std::int64_t> batches = {1};
  std::vector<std::int64_t> heads = {4};
  std::optional<std::int64_t> num_heads_kv;  // absent: as many as query heads
  std::vector<std::int64_t> seqlens = {1024, 2048, 4096};
  std::vector<std::int64_t> head_dims = {128};
  std::vector<DType> dtypes = {DType::kFloat16};
  Layout layout = Layout::kHnd;
  std::vector<double> sparsities;     // shares of skipped blocks in random masks, in [0, 1)
  std::vector<std::string> patterns;  // of block masks, as ParseMaskPattern() takes them
  std::vector<bool> causal = {false};
  std::vector<bool> resident_kv = {false};
  std::vector<Precision> precisions = {Precision::kQkInt8PvFp16};
  std::uint64_t seed = 0;
};

// Cases of the same tensors stand beside each other. Sparsity 0 where neither sparsities nor
// patterns are given.
std::vector<GeneratedCase> Cases(const BenchGrid& grid);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_BENCH_GRID_H_
