#include "client/internal/outgoing_request.h"

#include <string>
#include <utility>

#include "client/convert.h"
#include "client/internal/wire_header.h"
#include "kernels/quantize_tensor.h"

namespace sage::internal {
namespace {

// Less than this part of the keys does not pay for gathering the others: scattered single blocks of
// 132 MiB over a Unix socket, on two cores, 2026-11-23, gained nothing below 1/16, a third at 1/8.
constexpr double kUnusedWorthLeavingOut = 1.0 / 8;
// Packed bits of patterns that are evaluated here to find out.
constexpr std::int64_t kLargestMaskBytes = 64 << 20;

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

absl::StatusOr<OutgoingRequest> OutgoingRequest::Make(AttendRequest request, bool streamed,
                                                      const std::optional<PartBegin>& begin) {
  OutgoingRequest outgoing(std::move(request));
  if (begin.has_value()) {
    v1::ResidentPart& part = *outgoing.header_.mutable_resident_part();
    part.set_batch_begin(begin->batch);
    part.set_q_head_begin(begin->q_head);
    part.set_kv_head_begin(begin->kv_head);
  }
  if (outgoing.request_.prequantize) {
    if (absl::Status status = outgoing.Quantize(); !status.ok()) return status;
  }
  outgoing.TakeScales();
  if (streamed) outgoing.LeaveOutUnused();
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

void OutgoingRequest::TakeScales() {
  const AttentionProblem& problem = request_.problem;
  const auto bytes = [](const float* floats, std::int64_t count) {
    return std::string(reinterpret_cast<const char*>(floats), count * sizeof(float));
  };
  if (const Sage1Scales& given = request_.q_scales; given.scales != nullptr) {
    v1::QuantizedOperand& operand = *header_.mutable_q()->mutable_quantized();
    operand.set_scales(bytes(given.scales, problem.lse_elements()));
    if (problem.return_lse) {
      operand.set_dot_smoothing(bytes(given.dot_smoothing, problem.lse_elements()));
    }
  }
  if (const Sage1Scales& given = request_.k_scales; given.scales != nullptr) {
    const std::int64_t heads = problem.batch * problem.num_heads_kv;
    v1::QuantizedOperand& operand = *header_.mutable_k()->mutable_quantized();
    operand.set_scales(bytes(given.scales, heads * problem.blocks_k()));
    operand.set_smoothing(bytes(given.smoothing, heads * problem.head_dim));
  }
}

void OutgoingRequest::LeaveOutUnused() {
  const AttentionProblem& problem = request_.problem;
  const ResidentTensors& resident = request_.resident;
  const MayLeaveOut may = UnusedMayBeLeftOut(problem.precision, Int8Of(request_).k);
  const bool k = may.k && resident.k == nullptr;
  const bool v = may.v && resident.v == nullptr;
  if ((!k && !v) || resident.mask != nullptr) return;
  BlockMask made;
  const BlockMask* mask = &made;
  if (const auto* packed = std::get_if<const BlockMask*>(&request_.mask)) {
    mask = *packed;
  } else if (const auto* pattern = std::get_if<MaskPattern>(&request_.mask)) {
    // What the server refuses is for the server to refuse.
    if (problem.tiles_q() * CeilDiv(problem.blocks_k(), 8) > kLargestMaskBytes) return;
    absl::StatusOr<BlockMask> from_pattern = BlockMask::FromPattern(problem, *pattern);
    if (!from_pattern.ok()) return;
    made = *std::move(from_pattern);
  }
  auto used = std::make_unique<const UsedBlocks>(problem, *mask);
  double rows = 0;  // of units of one head; larger ones leave out what none of their heads reads
  const std::int64_t heads = problem.batch * problem.num_heads_kv;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (const RowRange& some :
         used->RowsOf(head / problem.num_heads_kv, head % problem.num_heads_kv, 1)) {
      rows += static_cast<double>(some.count);
    }
  }
  const double unused = 1 - rows / static_cast<double>(heads * problem.seqlen_k);
  if (unused < kUnusedWorthLeavingOut) return;
  header_.set_omit_unused_kv(true);
  used_ = std::move(used);
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
  const Int8Operands int8 = Int8Of(request_);
  const bool is_int8 = (is_q && int8.q) || (is_k && int8.k);
  return {.data = static_cast<const std::byte*>(is_q   ? request_.q
                                                : is_k ? request_.k
                                                       : request_.v),
          .element_bytes = is_int8 ? 1 : static_cast<std::int64_t>(SizeOf(request_.problem.dtype)),
          .from_float32 = request_.float32_inputs && !is_int8,
          .borrowed = true};
}

Int8Operands Int8Of(const AttendRequest& request) {
  return {.q = request.prequantize || request.q_scales.scales != nullptr,
          .k = request.prequantize || request.k_scales.scales != nullptr};
}

std::size_t ScaleBytes(const AttendRequest& request) {
  const Int8Operands int8 = Int8Of(request);
  const AttentionProblem& problem = request.problem;
  const std::int64_t per_row = !int8.q ? 0 : problem.return_lse ? 2 : 1;
  const std::int64_t per_head = int8.k ? problem.blocks_k() + problem.head_dim : 0;
  return (problem.lse_elements() * per_row + problem.batch * problem.num_heads_kv * per_head) *
         sizeof(float);
}

}  // namespace sage::internal
