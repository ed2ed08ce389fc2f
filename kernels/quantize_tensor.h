// Spec `sage1` over the whole q and k of a problem: what travels in place of their 16-bit elements.
//
// Tensors are packed, in the problem's layout and dtype. Groups, and c, are those of the effective
// lengths; rows past them become 0 with scale 0. The bits are those of kernels/quantize.h.
#ifndef SAGE_KERNELS_QUANTIZE_TENSOR_H_
#define SAGE_KERNELS_QUANTIZE_TENSOR_H_

#include <cstdint>
#include <vector>

#include "kernels/attention.h"

namespace sage {

struct QuantizedTensor {
  std::vector<std::int8_t> values;  // the tensor's shape and layout
  std::vector<float> scales;        // q: [B, Hq, Sq]; k: [B, Hkv, ceil(Sk/64)]
};

// The smoothing vector c of k, [B, Hkv, D].
std::vector<float> ComputeSmoothing(const AttentionProblem& problem, const void* k);

QuantizedTensor QuantizeKeys(const AttentionProblem& problem, const void* k,
                             const std::vector<float>& smoothing);
QuantizedTensor QuantizeQueries(const AttentionProblem& problem, const void* q);

// The fp32 product q . c of every query row, [B, Hq, Sq]; 0 past the effective lengths.
std::vector<float> QueryDotSmoothing(const AttentionProblem& problem, const void* q,
                                     const std::vector<float>& smoothing);

}  // namespace sage

#endif  // SAGE_KERNELS_QUANTIZE_TENSOR_H_
