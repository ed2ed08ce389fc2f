#include "client/merge.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace sage {
namespace {

void MergeRow(std::int64_t head_dim, const float* part_out, float part_lse, float* out,
              float* lse) {
  constexpr float kNothing = -std::numeric_limits<float>::infinity();
  if (part_lse == kNothing) return;
  if (*lse == kNothing) {
    std::copy_n(part_out, head_dim, out);
    *lse = part_lse;
    return;
  }
  const double top = std::max<double>(*lse, part_lse);
  const double weight = std::exp(*lse - top);
  const double part_weight = std::exp(part_lse - top);
  const double sum = weight + part_weight;
  for (std::int64_t d = 0; d < head_dim; ++d) {
    out[d] = static_cast<float>((weight * out[d] + part_weight * part_out[d]) / sum);
  }
  *lse = static_cast<float>(top + std::log(sum));
}

}  // namespace

void MergePartial(const AttentionProblem& problem, const float* part_out, const float* part_lse,
                  float* out, float* lse) {
  const std::int64_t heads = problem.num_heads_q;
  const std::int64_t rows = problem.seqlen_q;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t row = 0; row < rows; ++row) {
        const std::int64_t lse_index = (b * heads + h) * rows + row;
        const std::int64_t out_row =
            problem.layout == Layout::kHnd ? lse_index : (b * rows + row) * heads + h;
        MergeRow(problem.head_dim, part_out + out_row * problem.head_dim, part_lse[lse_index],
                 out + out_row * problem.head_dim, &lse[lse_index]);
      }
    }
  }
}

}  // namespace sage
