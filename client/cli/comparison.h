// An answer held against the float64 reference.
#ifndef SAGE_CLIENT_CLI_COMPARISON_H_
#define SAGE_CLIENT_CLI_COMPARISON_H_

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/reference/reference_attention.h"

namespace sage::cli {

struct Comparison {
  Similarity out;
  // Largest |got - want| / (1 + |want|) of lse over rows that see a key; NaN where one is not
  // finite.
  double lse_error = 0;
  // Rows that see no key, and whose output is not exactly 0 or whose lse is not -inf.
  std::int64_t wrong_empty_rows = 0;
  std::int64_t rows_checked = 0;
  std::int64_t rows = 0;
};

// Small problems are checked whole. Of larger ones, of each head: the first and last row of the
// sequence (and of its effective length) and of six tiles drawn at random, the last one included,
// and 64 rows drawn at random. Rows whose reference is not finite are left out. `out` and `lse` are
// the answer, whole.
Comparison CompareWithReference(const AttentionProblem& problem, const ReferenceInputs& inputs,
                                const void* out, const float* lse, std::uint64_t seed);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_COMPARISON_H_
