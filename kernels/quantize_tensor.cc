#include "kernels/quantize_tensor.h"

#include <cstddef>

#include "kernels/quantize.h"
#include "kernels/tensor_piece.h"

namespace sage {
namespace {

// One of q and k, head by head.
class Operand {
 public:
  Operand(const AttentionProblem& problem, const void* data, std::int64_t heads,
          std::int64_t seqlen)
      : problem_(problem),
        data_(static_cast<const std::byte*>(data)),
        heads_(heads),
        seqlen_(seqlen) {}

  // The first `rows` tokens of a head.
  HeadView Head(std::int64_t b, std::int64_t head, std::int64_t rows) const {
    const bool hnd = problem_.layout == Layout::kHnd;
    const std::int64_t token = hnd ? (b * heads_ + head) * seqlen_ : b * seqlen_ * heads_ + head;
    return {.data = data_ + token * problem_.head_dim * SizeOf(problem_.dtype),
            .dtype = problem_.dtype,
            .rows = rows,
            .row_stride = hnd ? problem_.head_dim : heads_ * problem_.head_dim,
            .head_dim = problem_.head_dim};
  }

  // Puts the values of such a head, packed, into the whole tensor of them.
  void Store(std::int64_t b, std::int64_t head, std::int64_t rows,
             const std::vector<std::int8_t>& packed, std::vector<std::int8_t>* whole) const {
    if (rows == 0) return;
    const PieceRuns runs =
        RunsOf({problem_.layout, heads_, seqlen_, problem_.head_dim}, {b, head, 1, 0, rows});
    ScatterPiece(runs, reinterpret_cast<const std::byte*>(packed.data()), 0, runs.bytes(),
                 reinterpret_cast<std::byte*>(whole->data()));
  }

 private:
  const AttentionProblem& problem_;
  const std::byte* data_;
  std::int64_t heads_;
  std::int64_t seqlen_;
};

Operand Queries(const AttentionProblem& problem, const void* q) {
  return {problem, q, problem.num_heads_q, problem.seqlen_q};
}

Operand Keys(const AttentionProblem& problem, const void* k) {
  return {problem, k, problem.num_heads_kv, problem.seqlen_k};
}

}  // namespace

std::vector<float> ComputeSmoothing(const AttentionProblem& problem, const void* k) {
  const Operand keys = Keys(problem, k);
  std::vector<float> c(problem.batch * problem.num_heads_kv * problem.head_dim);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t head = 0; head < problem.num_heads_kv; ++head) {
      ComputeSmoothing(keys.Head(b, head, problem.length_k(b)),
                       &c[(b * problem.num_heads_kv + head) * problem.head_dim]);
    }
  }
  return c;
}

QuantizedTensor QuantizeKeys(const AttentionProblem& problem, const void* k,
                             const std::vector<float>& smoothing) {
  const Operand keys = Keys(problem, k);
  QuantizedTensor tensor;
  tensor.values.resize(problem.kv_elements());
  tensor.scales.resize(problem.batch * problem.num_heads_kv * problem.blocks_k());
  std::vector<std::int8_t> k8(problem.seqlen_k * problem.head_dim);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t head = 0; head < problem.num_heads_kv; ++head) {
      const std::int64_t index = b * problem.num_heads_kv + head;
      const HeadView view = keys.Head(b, head, problem.length_k(b));
      QuantizeKeys(view, &smoothing[index * problem.head_dim], k8.data(),
                   &tensor.scales[index * problem.blocks_k()]);
      keys.Store(b, head, view.rows, k8, &tensor.values);
    }
  }
  return tensor;
}

QuantizedTensor QuantizeQueries(const AttentionProblem& problem, const void* q) {
  const Operand queries = Queries(problem, q);
  QuantizedTensor tensor;
  tensor.values.resize(problem.q_elements());
  tensor.scales.resize(problem.lse_elements());
  std::vector<std::int8_t> q8(problem.seqlen_q * problem.head_dim);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t head = 0; head < problem.num_heads_q; ++head) {
      const HeadView view = queries.Head(b, head, problem.length_q(b));
      QuantizeQueries(view, q8.data(),
                      &tensor.scales[(b * problem.num_heads_q + head) * problem.seqlen_q]);
      queries.Store(b, head, view.rows, q8, &tensor.values);
    }
  }
  return tensor;
}

std::vector<float> QueryDotSmoothing(const AttentionProblem& problem, const void* q,
                                     const std::vector<float>& smoothing) {
  const Operand queries = Queries(problem, q);
  std::vector<float> dots(problem.lse_elements());
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t head = 0; head < problem.num_heads_q; ++head) {
      const std::int64_t kv_head = b * problem.num_heads_kv + head / problem.group_size();
      QueryDotSmoothing(queries.Head(b, head, problem.length_q(b)),
                        &smoothing[kv_head * problem.head_dim],
                        &dots[(b * problem.num_heads_q + head) * problem.seqlen_q]);
    }
  }
  return dots;
}

}  // namespace sage
