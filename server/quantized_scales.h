// What a request's header brings for q and k that travel as `sage1` int8, and how a unit's share of
// it joins the unit's payload in memory.
#ifndef SAGE_SERVER_QUANTIZED_SCALES_H_
#define SAGE_SERVER_QUANTIZED_SCALES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/attention.h"
#include "kernels/backend.h"
#include "server/unit_plan.h"

namespace sage::server {

// Whole tensors; all empty where the operand does not travel as int8.
struct QuantizedScales {
  std::vector<float> q;          // [B, Hq, Sq]
  std::vector<float> q_dots;     // [B, Hq, Sq], q . c, where lse is wanted
  std::vector<float> k;          // [B, Hkv, ceil(Sk/64)]
  std::vector<float> smoothing;  // [B, Hkv, D], c

  Quantized operands() const { return {.q = !q.empty(), .k = !k.empty()}; }
  std::uint64_t bytes() const {
    return (q.size() + q_dots.size() + k.size() + smoothing.size()) * sizeof(float);
  }
};

// Bytes that follow a unit's int8 q, and the int8 k that it carries; 0 where there is none. Those
// of k are padded, so that v may follow them.
std::uint64_t QueryScaleBytes(const QuantizedScales& scales, const Unit& unit,
                              const AttentionProblem& problem);
std::uint64_t KeyScaleBytes(const QuantizedScales& scales, const Unit& unit,
                            const AttentionProblem& problem);

// Writes these bytes to `to`, aligned to floats, and points to what is there.
QueryScales PlaceQueryScales(const QuantizedScales& scales, const Unit& unit,
                             const AttentionProblem& problem, std::byte* to);
KeyScales PlaceKeyScales(const QuantizedScales& scales, const Unit& unit,
                         const AttentionProblem& problem, std::byte* to);

}  // namespace sage::server

#endif  // SAGE_SERVER_QUANTIZED_SCALES_H_
