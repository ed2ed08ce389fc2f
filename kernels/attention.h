// What an attention problem is: shapes, element types, layout, precision, and what makes them
// valid.
//
//   o = softmax(softmax_scale * q k^T, masked) v        for every batch entry and query head
//
// Everything past ValidateProblem() may assume a valid problem.
#ifndef SAGE_KERNELS_ATTENTION_H_
#define SAGE_KERNELS_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace sage {

// Tile of the block mask, and of every kernel: 128 query rows by 64 keys.
inline constexpr std::int64_t kBlockM = 128;
inline constexpr std::int64_t kBlockN = 64;
inline constexpr std::int64_t kMaxHeadDim = 128;
// Largest value of any one dimension, so that products of two fit in 64 bits with room to spare.
inline constexpr std::int64_t kMaxDimension = std::int64_t{1} << 31;

constexpr std::int64_t CeilDiv(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

enum class DType : std::uint8_t { kFloat16, kBFloat16, kFloat32 };

// Order of the dimensions of q, k, v and the output; head_dim is contiguous in both.
enum class Layout : std::uint8_t {
  kHnd,  // [batch, heads, seqlen, head_dim]
  kNhd,  // [batch, seqlen, heads, head_dim]
};

// Arithmetic of the two matrix products, named as the SageAttention papers do.
enum class Precision : std::uint8_t {
  kQkInt8PvFp16,  // INT8 scores from smoothed K (`sage1`), FP16 or BF16 probabilities, FP32 sums
  kQkInt8PvFp8,   // the same scores; e4m3 probabilities and V, V centred and scaled per channel
  kFp16,          // no quantisation: FP16 or BF16 products, FP32 sums
};

std::size_t SizeOf(DType dtype);
std::string_view Name(DType dtype);          // "fp16", "bf16", "fp32"
std::string_view Name(Layout layout);        // "HND", "NHD"
std::string_view Name(Precision precision);  // "qk_int8_pv_fp16", "qk_int8_pv_fp8", "fp16"
std::optional<DType> ParseDType(std::string_view name);
std::optional<Layout> ParseLayout(std::string_view name);
std::optional<Precision> ParsePrecision(std::string_view name);

struct AttentionProblem {
  std::int64_t batch = 0;
  std::int64_t num_heads_q = 0;
  std::int64_t num_heads_kv = 0;  // divides num_heads_q; query head h reads KV head h / (Hq / Hkv)
  std::int64_t seqlen_q = 0;
  std::int64_t seqlen_k = 0;
  std::int64_t head_dim = 0;  // a multiple of 8, at most kMaxHeadDim

  DType dtype = DType::kFloat16;         // of q, k and v: kFloat16 or kBFloat16
  DType output_dtype = DType::kFloat16;  // of the output: any
  Layout layout = Layout::kHnd;
  Precision precision = Precision::kQkInt8PvFp16;

  // Query token i sees keys j <= i + len_k - len_q, len being the lengths of its batch entry
  // (bottom-right aligned). Exact per element, and combined with the block mask.
  bool is_causal = false;
  std::optional<float> softmax_scale;  // absent: head_dim^-0.5; else finite and positive
  bool return_lse = false;

  // Effective lengths per batch entry, each in [0, seqlen]; empty means full length everywhere.
  // Rows and keys past an entry's length do not exist: their output is 0, their lse -inf.
  std::vector<std::int64_t> seqlens_q;
  std::vector<std::int64_t> seqlens_k;

  std::int64_t group_size() const { return num_heads_q / num_heads_kv; }
  std::int64_t tiles_q() const { return CeilDiv(seqlen_q, kBlockM); }
  std::int64_t blocks_k() const { return CeilDiv(seqlen_k, kBlockN); }
  std::int64_t length_q(std::int64_t b) const {
    return seqlens_q.empty() ? seqlen_q : seqlens_q[b];
  }
  std::int64_t length_k(std::int64_t b) const {
    return seqlens_k.empty() ? seqlen_k : seqlens_k[b];
  }
  float scale() const;
  // Elements and bytes of whole tensors.
  std::int64_t q_elements() const { return batch * num_heads_q * seqlen_q * head_dim; }
  std::int64_t kv_elements() const { return batch * num_heads_kv * seqlen_k * head_dim; }
  std::int64_t lse_elements() const { return batch * num_heads_q * seqlen_q; }
  // 4 B Hq Sq Sk D, halved when causal: the convention of the field, skipped blocks counted as
  // done.
  double effective_operations() const;
};

// OK, or INVALID_ARGUMENT naming the field, what came and what is allowed. Also refuses problems
// whose tensors, a mask per head among them, have 2^62 elements or more, so that no later product
// of dimensions overflows.
absl::Status ValidateProblem(const AttentionProblem& problem);

// Keys that query row `row` of a sequence can see under causality: [0, result), within [0,
// length_k]. `row` counts from the start of the batch entry.
constexpr std::int64_t CausalKeyEnd(std::int64_t row, std::int64_t length_q,
                                    std::int64_t length_k) {
  const std::int64_t end = row + 1 + length_k - length_q;
  return end < 0 ? 0 : (end < length_k ? end : length_k);
}

}  // namespace sage

#endif  // SAGE_KERNELS_ATTENTION_H_
