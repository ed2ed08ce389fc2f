#include "kernels/reference/reference_attention.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>

namespace sage {
namespace {

// All values of binary16, decoded from the definition of the format.
std::vector<float> MakeHalfTable() {
  std::vector<float> table(1 << 16);
  for (std::size_t bits = 0; bits < table.size(); ++bits) {
    const int exponent = static_cast<int>((bits >> 10) & 31);
    const int fraction = static_cast<int>(bits & 1023);
    double value = 0;
    if (exponent == 31) {
      value = fraction == 0 ? std::numeric_limits<double>::infinity()
                            : std::numeric_limits<double>::quiet_NaN();
    } else if (exponent == 0) {
      value = std::ldexp(fraction, -24);
    } else {
      value = std::ldexp(1024 + fraction, exponent - 25);
    }
    table[bits] = static_cast<float>((bits >> 15) != 0 ? -value : value);
  }
  return table;
}

// Appends `count` elements of `data`, from index `first` on, as float64.
void AppendDecoded(DType dtype, const void* data, std::int64_t first, std::int64_t count,
                   std::vector<double>* out) {
  static const std::vector<float> half_table = MakeHalfTable();
  const auto* halves = static_cast<const std::uint16_t*>(data) + first;
  const std::size_t size = out->size();
  out->resize(size + count);
  double* to = out->data() + size;
  switch (dtype) {
    case DType::kFloat16:
      for (std::int64_t i = 0; i < count; ++i) to[i] = half_table[halves[i]];
      break;
    case DType::kBFloat16:  // the upper half of a binary32
      for (std::int64_t i = 0; i < count; ++i) {
        to[i] = std::bit_cast<float>(std::uint32_t{halves[i]} << 16);
      }
      break;
    case DType::kFloat32: {
      const auto* floats = static_cast<const float*>(data) + first;
      std::copy(floats, floats + count, to);
      break;
    }
  }
}

// Index of the first element of token `token` of head `head`.
std::int64_t TokenOffset(const AttentionProblem& problem, std::int64_t heads, std::int64_t seqlen,
                         std::int64_t b, std::int64_t head, std::int64_t token) {
  const std::int64_t index = problem.layout == Layout::kHnd ? (b * heads + head) * seqlen + token
                                                            : (b * seqlen + token) * heads + head;
  return index * problem.head_dim;
}

// Whether the definition of the problem lets query `row` see `key`.
bool IsVisible(const AttentionProblem& problem, const ReferenceInputs& inputs, std::int64_t b,
               std::int64_t head, std::int64_t row, std::int64_t key) {
  const std::int64_t length_q = problem.length_q(b);
  const std::int64_t length_k = problem.length_k(b);
  if (row >= length_q || key >= length_k) return false;
  if (problem.is_causal && key > row + length_k - length_q) return false;
  if (inputs.mask == nullptr) return true;
  const std::int64_t tiles = (problem.seqlen_q + kBlockM - 1) / kBlockM;
  const std::int64_t blocks = (problem.seqlen_k + kBlockN - 1) / kBlockN;
  const std::int64_t mask_b = inputs.mask_batch == 1 ? 0 : b;
  const std::int64_t mask_head = inputs.mask_heads == 1 ? 0 : head;
  const std::int64_t tile = (mask_b * inputs.mask_heads + mask_head) * tiles + row / kBlockM;
  return inputs.mask[tile * blocks + key / kBlockN] != 0;
}

std::vector<std::int64_t> VisibleKeys(const AttentionProblem& problem,
                                      const ReferenceInputs& inputs, std::int64_t b,
                                      std::int64_t head, std::int64_t row) {
  std::vector<std::int64_t> keys;
  for (std::int64_t key = 0; key < problem.seqlen_k; ++key) {
    if (IsVisible(problem, inputs, b, head, row, key)) keys.push_back(key);
  }
  return keys;
}

// Eight sums side by side, which compilers keep in vector registers. `size` is a multiple of 8.
double Dot(const double* a, const double* b, std::int64_t size) {
  std::array<double, 8> sums{};
  for (std::int64_t d = 0; d < size; d += 8) {
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] += a[d + i] * b[d + i];
  }
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// Softmax attention of one query over `keys`, which index rows of k and v.
ReferenceRow AttendKeys(const AttentionProblem& problem, const std::vector<double>& q,
                        const std::vector<std::int64_t>& keys, const std::vector<double>& k,
                        const std::vector<double>& v) {
  const std::int64_t head_dim = problem.head_dim;
  ReferenceRow result{.out = std::vector<double>(head_dim),
                      .lse = -std::numeric_limits<double>::infinity()};
  if (keys.empty()) return result;
  const double scale = problem.softmax_scale ? static_cast<double>(*problem.softmax_scale)
                                             : 1.0 / std::sqrt(static_cast<double>(head_dim));
  std::vector<double> scores;
  scores.reserve(keys.size());
  for (const std::int64_t key : keys) {
    scores.push_back(scale * Dot(q.data(), k.data() + key * head_dim, head_dim));
  }
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const double weight = std::exp(scores[i] - max);
    sum += weight;
    const double* value = v.data() + keys[i] * head_dim;
    for (std::int64_t d = 0; d < head_dim; ++d) result.out[d] += weight * value[d];
  }
  for (double& element : result.out) element /= sum;
  result.lse = max + std::log(sum);
  return result;
}

std::vector<double> DecodeQuery(const AttentionProblem& problem, const ReferenceInputs& inputs,
                                std::int64_t b, std::int64_t head, std::int64_t row) {
  std::vector<double> q;
  AppendDecoded(problem.dtype, inputs.q,
                TokenOffset(problem, problem.num_heads_q, problem.seqlen_q, b, head, row),
                problem.head_dim, &q);
  return q;
}

// The listed tokens of one KV head of k or v, one row each.
std::vector<double> DecodeKeys(const AttentionProblem& problem, const void* data, std::int64_t b,
                               std::int64_t kv_head, const std::vector<std::int64_t>& keys) {
  std::vector<double> rows;
  rows.reserve(keys.size() * problem.head_dim);
  for (const std::int64_t key : keys) {
    AppendDecoded(problem.dtype, data,
                  TokenOffset(problem, problem.num_heads_kv, problem.seqlen_k, b, kv_head, key),
                  problem.head_dim, &rows);
  }
  return rows;
}

std::vector<std::int64_t> FirstIntegers(std::size_t count) {
  std::vector<std::int64_t> integers(count);
  std::iota(integers.begin(), integers.end(), 0);
  return integers;
}

}  // namespace

ReferenceRow ReferenceAttentionRow(const AttentionProblem& problem, const ReferenceInputs& inputs,
                                   std::int64_t b, std::int64_t head, std::int64_t row) {
  const std::int64_t kv_head = head / (problem.num_heads_q / problem.num_heads_kv);
  const std::vector<std::int64_t> keys = VisibleKeys(problem, inputs, b, head, row);
  return AttendKeys(problem, DecodeQuery(problem, inputs, b, head, row), FirstIntegers(keys.size()),
                    DecodeKeys(problem, inputs.k, b, kv_head, keys),
                    DecodeKeys(problem, inputs.v, b, kv_head, keys));
}

ReferenceResult ReferenceAttention(const AttentionProblem& problem, const ReferenceInputs& inputs) {
  ReferenceResult result;
  const std::vector<std::int64_t> all_keys = FirstIntegers(problem.seqlen_k);
  const std::int64_t group = problem.num_heads_q / problem.num_heads_kv;
  std::vector<double> k;
  std::vector<double> v;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t head = 0; head < problem.num_heads_q; ++head) {
      if (head % group == 0) {
        k = DecodeKeys(problem, inputs.k, b, head / group, all_keys);
        v = DecodeKeys(problem, inputs.v, b, head / group, all_keys);
      }
      for (std::int64_t row = 0; row < problem.seqlen_q; ++row) {
        const ReferenceRow one = AttendKeys(problem, DecodeQuery(problem, inputs, b, head, row),
                                            VisibleKeys(problem, inputs, b, head, row), k, v);
        result.out.insert(result.out.end(), one.out.begin(), one.out.end());
        result.lse.push_back(one.lse);
      }
    }
  }
  return result;
}

void SimilarityAccumulator::Add(double got, double want) {
  if (!std::isfinite(want)) return;
  if (!std::isfinite(got)) got = std::numeric_limits<double>::quiet_NaN();
  const double difference = got - want;
  dot_ += got * want;
  got2_ += got * got;
  want2_ += want * want;
  diff1_ += std::abs(difference);
  want1_ += std::abs(want);
  diff2_ += difference * difference;
}

Similarity SimilarityAccumulator::Result() const {
  const auto relative = [](double error, double size) { return error == 0 ? 0.0 : error / size; };
  Similarity similarity{.cosine = dot_ / (std::sqrt(got2_) * std::sqrt(want2_)),
                        .relative_l1 = relative(diff1_, want1_),
                        .relative_l2 = relative(std::sqrt(diff2_), std::sqrt(want2_))};
  if (got2_ == 0 && want2_ == 0) similarity.cosine = 1;
  if ((got2_ == 0) != (want2_ == 0) && !std::isnan(got2_)) similarity.cosine = 0;
  return similarity;
}

}  // namespace sage
