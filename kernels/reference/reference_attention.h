// The float64 oracle.
//
// Expands the raw mask per element and computes every score, softmax and sum in float64, row by
// row, from the definition. Shares no function with any backend, quantiser or active-block list, so
// that an error there cannot hide here. Slow by design; callers choose the rows.
#ifndef SAGE_KERNELS_REFERENCE_REFERENCE_ATTENTION_H_
#define SAGE_KERNELS_REFERENCE_REFERENCE_ATTENTION_H_

#include <cstdint>
#include <vector>

#include "kernels/attention.h"

namespace sage {

// Whole tensors in the problem's layout and dtype. `mask` is dense, one byte a block (0 or not 0),
// [mask_batch, mask_heads, ceil(Sq/128), ceil(Sk/64)] with mask_batch 1 or batch and mask_heads 1
// or num_heads_q; nullptr for none.
struct ReferenceInputs {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const std::uint8_t* mask = nullptr;
  std::int64_t mask_batch = 1;
  std::int64_t mask_heads = 1;
};

struct ReferenceRow {
  std::vector<double> out;  // [head_dim]
  double lse = 0;           // natural log; -inf where no key is visible (out is then 0)
};

// Row `row` of query head `head` of batch entry `b`.
ReferenceRow ReferenceAttentionRow(const AttentionProblem& problem, const ReferenceInputs& inputs,
                                   std::int64_t b, std::int64_t head, std::int64_t row);

// All rows: out [batch, num_heads_q, seqlen_q, head_dim] in HND order whatever the problem's
// layout, and lse [batch, num_heads_q, seqlen_q].
struct ReferenceResult {
  std::vector<double> out;
  std::vector<double> lse;
};
ReferenceResult ReferenceAttention(const AttentionProblem& problem, const ReferenceInputs& inputs);

// How close `got` is to `want`, over finite reference values: all three as the field reports them.
// A non-finite `got` makes every figure NaN.
struct Similarity {
  double cosine = 1;       // <got, want> / (|got| |want|); 1 where both are all zero
  double relative_l1 = 0;  // sum |got - want| / sum |want|
  double relative_l2 = 0;  // |got - want| / |want|
};
class SimilarityAccumulator {
 public:
  void Add(double got, double want);
  Similarity Result() const;

 private:
  double dot_ = 0, got2_ = 0, want2_ = 0, diff1_ = 0, want1_ = 0, diff2_ = 0;
};

}  // namespace sage

#endif  // SAGE_KERNELS_REFERENCE_REFERENCE_ATTENTION_H_
