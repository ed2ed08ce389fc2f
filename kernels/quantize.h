// Quantisation spec `sage1` on the host, to the letter: the scalar form that every other
// implementation must match bit for bit.
//
// fl() is one IEEE fp32 operation, round to nearest even. The file that implements this is compiled
// without contraction of multiply-add, without flush to zero and without fast-math.
//   c      per 64-token block the fp32 sum of its tokens in order from +0; the sum of block sums in
//   order;
//          inv = fl(1 / fl(Sk)); c = fl(sum * inv). Non-finite elements count as 0.
//   group  K: one 64-token block of a head. Q: one token, with c = 0.
//   m      max |fl(x - c)| over the group; scale = fl(m / 127); r = fl(127 / m);
//          x8 = rint(fl(fl(x - c) * r)), clamped to [-127, 127].
//   m < 2^-100 counts as zero: scale 0, x8 0. A group with a non-finite value: scale NaN, its x8 0.
//   Tokens past the end are 0.
// Source: SageAttention (Zhang et al., 2024), smoothing of K and per-block INT8; the fixed order of
// sums is ours.
#ifndef SAGE_KERNELS_QUANTIZE_H_
#define SAGE_KERNELS_QUANTIZE_H_

#include <cmath>
#include <cstdint>

#include "kernels/attention.h"

namespace sage {

// One head of a tensor: `rows` tokens of `head_dim` contiguous elements, `row_stride` elements
// apart. `data` holds dtype kFloat16, kBFloat16 or kFloat32. Does not own.
struct HeadView {
  const void* data = nullptr;
  DType dtype = DType::kFloat16;
  std::int64_t rows = 0;
  std::int64_t row_stride = 0;
  std::int64_t head_dim = 0;
};

// Whether a group can have this scale: finite and not negative, or NaN for non-finite values.
inline bool IsGroupScale(float scale) { return !std::isinf(scale) && !(scale < 0.0F); }

// c[head_dim] of one KV head; k.rows is the effective key length. k.rows == 0 gives c = 0.
void ComputeSmoothing(const HeadView& k, float* c);

// K of one head: k8[rows, head_dim] and one scale per 64-token block, scales[ceil(rows/64)].
// The last block's missing tokens are not written.
void QuantizeKeys(const HeadView& k, const float* c, std::int8_t* k8, float* scales);

// Q of one head: q8[rows, head_dim] and one scale per token, scales[rows].
void QuantizeQueries(const HeadView& q, std::int8_t* q8, float* scales);

// fp32 product q . c per row, for the lse of unsmoothed scores: dot[rows]. The products fl(q_d *
// c_d) of eight channels in a row are summed in order from +0; these sums are added in pairs,
// neighbours first, as ((s0 + s1) + (s2 + s3)) + ..., missing ones being 0. So lanes that hold
// eight channels each can share the work.
void QueryDotSmoothing(const HeadView& q, const float* c, float* dot);

}  // namespace sage

#endif  // SAGE_KERNELS_QUANTIZE_H_
