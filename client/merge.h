// Merging of attention over parts of the keys, for sequences whose keys are split between calls.
#ifndef SAGE_CLIENT_MERGE_H_
#define SAGE_CLIENT_MERGE_H_

#include "kernels/attention.h"

namespace sage {

// Adds the answer over one part of the keys to the answer over the others:
//   lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b.
// `out` and `lse` hold the answer so far and receive the merged one; `part_out` and `part_lse` are
// left alone. All outputs are fp32 in the problem's layout, all lse fp32 [B, Hq, Sq]; of `problem`
// only batch, num_heads_q, seqlen_q, head_dim and layout are read. A row that one side does not see
// (lse -inf) takes the other side's bits; one that neither sees stays 0 and -inf. Any order of
// parts gives the same up to fp32 rounding. Start with out 0 and lse -inf, or with the first part.
// Source: online softmax (Milakov and Gimelshein, 2018).
void MergePartial(const AttentionProblem& problem, const float* part_out, const float* part_lse,
                  float* out, float* lse);

}  // namespace sage

#endif  // SAGE_CLIENT_MERGE_H_
