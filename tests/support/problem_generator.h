// Random attention problems, and the comparison of an answer with the oracle.
//
// Everything is a function of its seed. Put Describe() into a SCOPED_TRACE, so that a failure says
// what to run again. Functions are thread-safe.
#ifndef SAGE_TESTS_SUPPORT_PROBLEM_GENERATOR_H_
#define SAGE_TESTS_SUPPORT_PROBLEM_GENERATOR_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "kernels/reference/reference_attention.h"

namespace sage::testing {

// Distributions of q, k, v. All start from N(0, 1) per element.
enum class DataKind : std::uint8_t {
  kNormal,
  kKeyOffset,    // k + 8 N(0, 1), one draw per channel of a KV head
  kValueOffset,  // v + 8 N(0, 1), one draw per channel of a KV head
  kOutliers,     // first two channels of q and k times 12, then q times 0.5
};

// Whole tensors in the dtype and layout of their problem.
struct ProblemData {
  std::vector<std::byte> q;
  std::vector<std::byte> k;
  std::vector<std::byte> v;
};
ProblemData MakeData(const AttentionProblem& problem, DataKind kind, std::uint64_t seed);

// A dense mask [mask_batch, mask_heads, ceil(Sq/128), ceil(Sk/64)] of 0 and 1, each block listed
// with probability `density`.
std::vector<std::uint8_t> RandomDenseMask(const AttentionProblem& problem, std::int64_t mask_batch,
                                          std::int64_t mask_heads, double density,
                                          std::uint64_t seed);

// Clears every `period`-th row of blocks, the first one included.
void ClearMaskRows(const AttentionProblem& problem, std::int64_t period,
                   std::vector<std::uint8_t>* dense);

// Output and lse [batch, num_heads_q, seqlen_q], filled with bytes that read as NaN, so that
// whatever is not written shows.
struct PoisonedOutput {
  explicit PoisonedOutput(const AttentionProblem& problem);

  std::vector<std::byte> out;  // in the problem's layout and output_dtype
  std::vector<float> lse;
};

// The oracle's answer for MakeData() tensors; `mask` may be empty for none.
ReferenceResult Reference(const AttentionProblem& problem, const ProblemData& data,
                          const std::vector<std::uint8_t>& mask = {}, std::int64_t mask_batch = 1,
                          std::int64_t mask_heads = 1);

// How far an output is from the oracle, over all finite elements of the oracle.
struct Comparison {
  Similarity out;
  double lse_error = 0;  // largest |got - want| of lse; NaN when some is not finite
};
// Rows without a visible key are left out: EmptyRowsAreExact() holds them to exact values.
Comparison Compare(const AttentionProblem& problem, const PoisonedOutput& output,
                   const ReferenceResult& reference);

// Success when every row that sees no key is exactly 0 and, if the problem returns lse, its lse is
// -inf. The failure names the first row that is not.
::testing::AssertionResult EmptyRowsAreExact(const AttentionProblem& problem,
                                             const PoisonedOutput& output,
                                             const ReferenceResult& reference);

// Largest relative L2 that an answer of this precision may show on N(0, 1)-like data, a margin of
// about two over what its formats give: int8 scores err by about 1.3%, e4m3 products by about 3.8%,
// fp16 and bf16 probabilities by their rounding.
double RelativeL2Limit(Precision precision, DType dtype);

// Largest lse error for N(0, 1) data with the default scale, where even a row of one key must pass.
// Unquantised scores err by fp32 sums alone. Of int8 operands, q errs by about 0.006 an element and
// k by 0.0095 (half-steps of absmax / 127 over a token and a block, uniformly spread), so a score
// of D products, scaled by D^-0.5, errs by 0.011; the limit is nine times that.
double LseLimit(Precision precision);

// One line: every dimension and option of `problem`, and `seed`.
std::string Describe(const AttentionProblem& problem, std::uint64_t seed);

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_PROBLEM_GENERATOR_H_
