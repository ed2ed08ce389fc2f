#include "client/cli/comparison.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "client/cli/parallel_for.h"
#include "kernels/float16.h"

namespace sage::cli {
namespace {

// Multiply-adds of the reference up to which a problem is checked whole: a few seconds.
constexpr double kWholeOperations = 2e9;
constexpr std::int64_t kRandomRows = 64;   // of each head
constexpr std::int64_t kRandomTiles = 6;   // of each head
constexpr std::size_t kRowsAtOnce = 4096;  // bounds the memory for reference rows

struct Row {
  std::int64_t batch;
  std::int64_t head;
  std::int64_t row;
};

std::vector<std::int64_t> SampleRows(const AttentionProblem& problem, std::int64_t batch,
                                     std::mt19937_64* generator) {
  const std::int64_t rows = problem.seqlen_q;
  const auto below = [generator](std::int64_t end) {
    return std::uniform_int_distribution<std::int64_t>(0, end - 1)(*generator);
  };
  const std::int64_t length = problem.length_q(batch);
  std::vector<std::int64_t> sample = {0, rows - 1, length - 1, length};
  for (std::int64_t i = 0; i < kRandomTiles; ++i) {
    const std::int64_t tile = i == 0 ? problem.tiles_q() - 1 : below(problem.tiles_q());
    sample.push_back(tile * kBlockM);
    sample.push_back(tile * kBlockM + kBlockM - 1);
  }
  for (std::int64_t i = 0; i < kRandomRows; ++i) sample.push_back(below(rows));
  std::erase_if(sample, [rows](std::int64_t row) { return row < 0 || row >= rows; });
  std::sort(sample.begin(), sample.end());
  sample.erase(std::unique(sample.begin(), sample.end()), sample.end());
  return sample;
}

std::vector<Row> ChooseRows(const AttentionProblem& problem, std::uint64_t seed) {
  const double operations = 2.0 * static_cast<double>(problem.lse_elements()) *
                            static_cast<double>(problem.seqlen_k * problem.head_dim);
  std::mt19937_64 generator(seed);
  std::vector<Row> chosen;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t h = 0; h < problem.num_heads_q; ++h) {
      if (operations <= kWholeOperations) {
        for (std::int64_t row = 0; row < problem.seqlen_q; ++row) chosen.push_back({b, h, row});
      } else {
        for (const std::int64_t row : SampleRows(problem, b, &generator)) {
          chosen.push_back({b, h, row});
        }
      }
    }
  }
  return chosen;
}

double Element(const void* tensor, DType dtype, std::int64_t index) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(tensor)[index];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(tensor)[index];
  return dtype == DType::kFloat16 ? ToFloat(Float16{bits}) : ToFloat(BFloat16{bits});
}

}  // namespace

Comparison CompareWithReference(const AttentionProblem& problem, const ReferenceInputs& inputs,
                                const void* out, const float* lse, std::uint64_t seed) {
  const std::vector<Row> rows = ChooseRows(problem, seed);
  const std::int64_t heads = problem.num_heads_q;
  Comparison comparison;
  comparison.rows = problem.lse_elements();
  SimilarityAccumulator similarity;
  for (std::size_t begin = 0; begin < rows.size(); begin += kRowsAtOnce) {
    const std::size_t count = std::min(kRowsAtOnce, rows.size() - begin);
    std::vector<ReferenceRow> reference(count);
    ParallelFor(static_cast<std::int64_t>(count), [&](std::int64_t i) {
      const Row& row = rows[begin + i];
      reference[i] = ReferenceAttentionRow(problem, inputs, row.batch, row.head, row.row);
    });

    for (std::size_t i = 0; i < count; ++i) {
      const Row& row = rows[begin + i];
      const ReferenceRow& want = reference[i];
      const std::int64_t lse_index = (row.batch * heads + row.head) * problem.seqlen_q + row.row;
      const std::int64_t out_row =
          problem.layout == Layout::kHnd
              ? lse_index
              : (row.batch * problem.seqlen_q + row.row) * heads + row.head;
      ++comparison.rows_checked;
      bool all_zero = true;
      for (std::int64_t d = 0; d < problem.head_dim; ++d) {
        const double got = Element(out, problem.output_dtype, out_row * problem.head_dim + d);
        all_zero = all_zero && got == 0;
        if (std::isfinite(want.out[d])) similarity.Add(got, want.out[d]);
      }
      const double got_lse = lse[lse_index];
      if (want.lse == -std::numeric_limits<double>::infinity()) {
        if (!all_zero || got_lse != want.lse) ++comparison.wrong_empty_rows;
      } else if (std::isfinite(want.lse)) {
        const double error = std::abs(got_lse - want.lse) / (1 + std::abs(want.lse));
        // Not std::max, which would lose a NaN.
        if (!(error <= comparison.lse_error)) comparison.lse_error = error;
        if (!std::isfinite(got_lse)) comparison.lse_error = std::nan("");
      }
    }
  }
  comparison.out = similarity.Result();
  return comparison;
}

}  // namespace sage::cli
