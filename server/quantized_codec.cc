#include "server/quantized_codec.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/quantize.h"
#include "server/errors.h"

namespace sage::server {
namespace {

absl::StatusOr<std::vector<float>> DecodeFloats(const std::string& bytes, std::uint64_t count,
                                                const char* field) {
  if (bytes.size() != count * sizeof(float)) {
    return InvalidField(field, absl::StrCat("got ", bytes.size(), " bytes, allowed ",
                                            count * sizeof(float), " for this shape"));
  }
  std::vector<float> floats(count);
  std::memcpy(floats.data(), bytes.data(), bytes.size());
  return floats;
}

absl::StatusOr<std::vector<float>> DecodeScales(const std::string& bytes, std::uint64_t count,
                                                const char* field) {
  absl::StatusOr<std::vector<float>> scales = DecodeFloats(bytes, count, field);
  for (std::uint64_t i = 0; scales.ok() && i < count; ++i) {
    if (IsGroupScale((*scales)[i])) continue;
    return InvalidField(field,
                        absl::StrCat("got ", (*scales)[i], " at index ", i,
                                     ", allowed finite values from 0 on, or NaN for a group with a "
                                     "non-finite value"));
  }
  return scales;
}

absl::Status DecodeQueries(const v1::QuantizedOperand& q, const AttentionProblem& problem,
                           QuantizedScales* to) {
  if (!q.smoothing().empty()) {
    return InvalidField("header.q.quantized.smoothing", "allowed for k only");
  }
  absl::StatusOr<std::vector<float>> scales =
      DecodeScales(q.scales(), problem.lse_elements(), "header.q.quantized.scales");
  if (!scales.ok()) return scales.status();
  to->q = *std::move(scales);
  if (!problem.return_lse && q.dot_smoothing().empty()) return absl::OkStatus();
  absl::StatusOr<std::vector<float>> dots =
      DecodeFloats(q.dot_smoothing(), problem.lse_elements(), "header.q.quantized.dot_smoothing");
  if (!dots.ok()) return dots.status();
  if (problem.return_lse) to->q_dots = *std::move(dots);
  return absl::OkStatus();
}

absl::Status DecodeKeys(const v1::QuantizedOperand& k, const AttentionProblem& problem,
                        QuantizedScales* to) {
  if (!k.dot_smoothing().empty()) {
    return InvalidField("header.k.quantized.dot_smoothing", "allowed for q only");
  }
  const std::int64_t heads = problem.batch * problem.num_heads_kv;
  absl::StatusOr<std::vector<float>> scales =
      DecodeScales(k.scales(), heads * problem.blocks_k(), "header.k.quantized.scales");
  if (!scales.ok()) return scales.status();
  absl::StatusOr<std::vector<float>> smoothing =
      DecodeFloats(k.smoothing(), heads * problem.head_dim, "header.k.quantized.smoothing");
  if (!smoothing.ok()) return smoothing.status();
  to->k = *std::move(scales);
  to->smoothing = *std::move(smoothing);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<QuantizedScales> DecodeQuantized(const v1::AttendHeader& header,
                                                const AttentionProblem& problem) {
  QuantizedScales scales;
  if (header.v().has_quantized()) {
    return InvalidField("header.v.quantized", "allowed for q and k only");
  }
  for (const auto& [field, operand] : {std::pair("header.q.quantized", &header.q()),
                                       std::pair("header.k.quantized", &header.k())}) {
    if (operand->has_quantized() && problem.precision == Precision::kFp16) {
      return InvalidField(field, "not allowed with precision fp16");
    }
  }
  if (header.q().has_quantized()) {
    if (absl::Status s = DecodeQueries(header.q().quantized(), problem, &scales); !s.ok()) return s;
  }
  if (header.k().has_quantized()) {
    if (absl::Status s = DecodeKeys(header.k().quantized(), problem, &scales); !s.ok()) return s;
  }
  return scales;
}

}  // namespace sage::server
