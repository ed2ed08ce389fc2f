#include "client/internal/outgoing_request.h"

#include <string>
#include <utility>

#include "client/convert.h"
#include "client/internal/wire_header.h"
#include "kernels/quantize_tensor.h"

namespace sage::internal {
namespace {

std::string ToBytes(const std::vector<float>& floats) {
  return {reinterpret_cast<const char*>(floats.data()), floats.size() * sizeof(float)};
}

// The elements of q or k in problem.dtype: those of the caller, or `converted`.
absl::StatusOr<const void*> HalfElements(const AttendRequest& request, const void* tensor,
                                         std::int64_t elements,
                                         std::vector<std::uint16_t>* converted) {
  if (!request.float32_inputs) return tensor;
  converted->resize(elements);
  absl::Status status =
      ConvertFromFloat32(tensor, elements, request.problem.dtype, converted->data());
  if (!status.ok()) return status;
  return converted->data();
}

}  // namespace

absl::StatusOr<OutgoingRequest> OutgoingRequest::Make(AttendRequest request) {
  OutgoingRequest outgoing(std::move(request));
  if (outgoing.request_.prequantize) {
    if (absl::Status status = outgoing.Quantize(); !status.ok()) return status;
  }
  return outgoing;
}

OutgoingRequest::OutgoingRequest(AttendRequest request)
    : request_(std::move(request)), header_(MakeHeader(request_)) {}

absl::Status OutgoingRequest::Quantize() {
  const AttentionProblem& problem = request_.problem;
  std::vector<float> smoothing;
  {
    std::vector<std::uint16_t> converted;
    const auto k = HalfElements(request_, request_.k, problem.kv_elements(), &converted);
    if (!k.ok()) return k.status();
    smoothing = ComputeSmoothing(problem, *k);
    QuantizedTensor k8 = QuantizeKeys(problem, *k, smoothing);
    v1::QuantizedOperand& operand = *header_.mutable_k()->mutable_quantized();
    operand.set_scales(ToBytes(k8.scales));
    operand.set_smoothing(ToBytes(smoothing));
    k8_ = std::move(k8.values);
  }
  std::vector<std::uint16_t> converted;
  const auto q = HalfElements(request_, request_.q, problem.q_elements(), &converted);
  if (!q.ok()) return q.status();
  QuantizedTensor q8 = QuantizeQueries(problem, *q);
  v1::QuantizedOperand& operand = *header_.mutable_q()->mutable_quantized();
  operand.set_scales(ToBytes(q8.scales));
  if (problem.return_lse) {
    operand.set_dot_smoothing(ToBytes(QueryDotSmoothing(problem, *q, smoothing)));
  }
  q8_ = std::move(q8.values);
  if (request_.on_range_done) {
    const std::size_t width = request_.float32_inputs ? sizeof(float) : SizeOf(problem.dtype);
    request_.on_range_done(request_.k, problem.kv_elements() * width);
    request_.on_range_done(request_.q, problem.q_elements() * width);
  }
  return absl::OkStatus();
}

OutgoingTensor OutgoingRequest::tensor(v1::TensorRole role) const {
  const bool is_q = role == v1::TENSOR_ROLE_Q;
  const bool is_k = role == v1::TENSOR_ROLE_K;
  if (request_.prequantize && (is_q || is_k)) {
    return {.data = reinterpret_cast<const std::byte*>((is_q ? q8_ : k8_).data()),
            .element_bytes = 1,
            .from_float32 = false,
            .borrowed = false};
  }
  return {.data = static_cast<const std::byte*>(is_q   ? request_.q
                                                : is_k ? request_.k
                                                       : request_.v),
          .element_bytes = static_cast<std::int64_t>(SizeOf(request_.problem.dtype)),
          .from_float32 = request_.float32_inputs,
          .borrowed = true};
}

std::size_t ScaleBytes(const AttendRequest& request) {
  if (!request.prequantize) return 0;
  const AttentionProblem& problem = request.problem;
  const std::int64_t per_row = problem.return_lse ? 2 : 1;
  const std::int64_t per_head = problem.blocks_k() + problem.head_dim;
  return (problem.lse_elements() * per_row + problem.batch * problem.num_heads_kv * per_head) *
         sizeof(float);
}

}  // namespace sage::internal
