#include "client/internal/wire_header.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "client/remote_tensor.h"
#include "proto/wire/enums.h"

namespace sage::internal {
namespace {

constexpr std::size_t kMaxRequestIdLength = 64;
constexpr int kMaxPriority = 10;

void FillPattern(const SlidingWindowPattern& pattern, v1::MaskPattern* wire) {
  wire->mutable_sliding_window()->set_left_blocks(pattern.left_blocks);
  wire->mutable_sliding_window()->set_right_blocks(pattern.right_blocks);
}

void FillPattern(const SinkWindowPattern& pattern, v1::MaskPattern* wire) {
  wire->mutable_sink_window()->set_sink_blocks(pattern.sink_blocks);
  wire->mutable_sink_window()->set_left_blocks(pattern.left_blocks);
}

void FillPattern(const StridedPattern& pattern, v1::MaskPattern* wire) {
  wire->mutable_strided()->set_stride_blocks(pattern.stride_blocks);
  wire->mutable_strided()->set_phase_blocks(pattern.phase_blocks);
  wire->mutable_strided()->set_local_blocks(pattern.local_blocks);
}

void FillPattern(const BandPattern& pattern, v1::MaskPattern* wire) {
  wire->mutable_band()->set_lower_blocks(pattern.lower_blocks);
  wire->mutable_band()->set_upper_blocks(pattern.upper_blocks);
}

void FillPattern(const DocumentPattern& pattern, v1::MaskPattern* wire) {
  wire->mutable_documents()->mutable_lengths()->Add(pattern.lengths.begin(), pattern.lengths.end());
}

void FillMask(const RequestMask& mask, v1::AttendHeader* header) {
  if (const auto* packed = std::get_if<const BlockMask*>(&mask)) {
    if ((*packed)->full()) return;
    v1::PackedBlockMask* wire = header->mutable_mask()->mutable_packed();
    wire->set_batch((*packed)->batch());
    wire->set_num_heads((*packed)->heads());
    wire->set_bits((*packed)->bits().data(), (*packed)->bits().size());
  } else if (const auto* pattern = std::get_if<MaskPattern>(&mask)) {
    v1::MaskPattern* wire = header->mutable_mask()->mutable_pattern();
    std::visit([wire](const auto& kind) { FillPattern(kind, wire); }, *pattern);
  }
}

void FillResident(const ResidentTensors& resident, v1::AttendHeader* header) {
  if (resident.q) *header->mutable_q()->mutable_handle() = resident.q->handle();
  if (resident.k) *header->mutable_k()->mutable_handle() = resident.k->handle();
  if (resident.v) *header->mutable_v()->mutable_handle() = resident.v->handle();
  if (resident.mask) *header->mutable_mask()->mutable_handle() = resident.mask->handle();
  if (resident.out) *header->mutable_output()->mutable_handle() = resident.out->handle();
}

}  // namespace

absl::Status CheckMask(const AttentionProblem& problem, const RequestMask& mask) {
  const auto* packed = std::get_if<const BlockMask*>(&mask);
  if (packed == nullptr) return absl::OkStatus();
  if (*packed == nullptr) return absl::InvalidArgumentError("mask: null");
  const BlockMask& m = **packed;
  if (m.full()) return absl::OkStatus();
  if ((m.batch() == 1 || m.batch() == problem.batch) &&
      (m.heads() == 1 || m.heads() == problem.num_heads_q) && m.tiles_q() == problem.tiles_q() &&
      m.blocks_k() == problem.blocks_k()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("mask: [", m.batch(), ", ", m.heads(), ", ", m.tiles_q(), ", ", m.blocks_k(),
                   "], made for another problem; this one takes [1 or ", problem.batch, ", 1 or ",
                   problem.num_heads_q, ", ", problem.tiles_q(), ", ", problem.blocks_k(), "]"));
}

absl::Status CheckRequest(const AttendRequest& request) {
  const AttentionProblem& problem = request.problem;
  if (absl::Status status = ValidateProblem(problem); !status.ok()) return status;
  const ResidentTensors& resident = request.resident;
  for (const auto& [name, here, there] :
       {std::tuple("q", request.q, resident.q), std::tuple("k", request.k, resident.k),
        std::tuple("v", request.v, resident.v),
        std::tuple("out", static_cast<const void*>(request.out), resident.out)}) {
    if (here == nullptr && there == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": a null pointer, and not resident"));
    }
    if (here != nullptr && there != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": given, and resident as well"));
    }
  }
  if (resident.mask != nullptr && !std::holds_alternative<std::monostate>(request.mask)) {
    return absl::InvalidArgumentError("mask: given, and resident as well");
  }
  if ((request.lse != nullptr) != problem.return_lse) {
    return absl::InvalidArgumentError(problem.return_lse
                                          ? "lse: a null pointer, but problem.return_lse is set"
                                          : "lse: given, but problem.return_lse is not set");
  }
  if (request.prequantize && problem.precision == Precision::kFp16) {
    return absl::InvalidArgumentError("prequantize: not with precision fp16, which takes no int8");
  }
  if (request.prequantize && (resident.q != nullptr || resident.k != nullptr)) {
    return absl::InvalidArgumentError("prequantize: not with a resident q or k");
  }
  for (const auto& [name, given, there, whole] :
       {std::tuple("q_scales", request.q_scales, resident.q,
                   request.q_scales.smoothing == nullptr &&
                       (request.q_scales.dot_smoothing != nullptr) == problem.return_lse),
        std::tuple(
            "k_scales", request.k_scales, resident.k,
            request.k_scales.smoothing != nullptr && request.k_scales.dot_smoothing == nullptr)}) {
    if (given.scales == nullptr) {
      if (given.smoothing == nullptr && given.dot_smoothing == nullptr) continue;
      return absl::InvalidArgumentError(absl::StrCat(name, ": scales is a null pointer"));
    }
    if (problem.precision == Precision::kFp16) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": not with precision fp16, which takes no int8"));
    }
    if (request.prequantize || there != nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": not with prequantize, nor with a resident tensor"));
    }
    if (!whole) {
      return absl::InvalidArgumentError(absl::StrCat(
          name,
          ": k takes scales and smoothing, q scales and, where lse is wanted, dot_smoothing"));
    }
  }
  if (request.request_id.size() > kMaxRequestIdLength ||
      !std::all_of(request.request_id.begin(), request.request_id.end(),
                   [](char c) { return absl::ascii_isprint(static_cast<unsigned char>(c)); })) {
    return absl::InvalidArgumentError("request_id: takes up to 64 printable ASCII characters");
  }
  if (request.priority < -kMaxPriority || request.priority > kMaxPriority) {
    return absl::InvalidArgumentError(
        absl::StrCat("priority: got ", request.priority, ", allowed -10 to 10"));
  }
  return CheckMask(problem, request.mask);
}

v1::AttendHeader MakeHeader(const AttendRequest& request) {
  const AttentionProblem& problem = request.problem;
  v1::AttendHeader header;
  v1::AttentionShape* shape = header.mutable_shape();
  shape->set_batch(problem.batch);
  shape->set_num_heads_q(problem.num_heads_q);
  shape->set_num_heads_kv(problem.num_heads_kv);
  shape->set_seqlen_q(problem.seqlen_q);
  shape->set_seqlen_k(problem.seqlen_k);
  shape->set_head_dim(problem.head_dim);
  header.set_dtype(ToProto(problem.dtype));
  header.set_output_dtype(ToProto(problem.output_dtype));
  header.set_layout(problem.layout == Layout::kHnd ? v1::LAYOUT_HND : v1::LAYOUT_NHD);
  header.set_precision(ToProto(problem.precision));
  header.set_is_causal(problem.is_causal);
  if (problem.softmax_scale) header.set_softmax_scale(*problem.softmax_scale);
  header.set_return_lse(problem.return_lse);
  header.mutable_seqlens_q()->Add(problem.seqlens_q.begin(), problem.seqlens_q.end());
  header.mutable_seqlens_k()->Add(problem.seqlens_k.begin(), problem.seqlens_k.end());
  FillMask(request.mask, &header);
  FillResident(request.resident, &header);
  header.set_request_id(request.request_id);
  header.set_priority(request.priority);
  return header;
}

AttendReport MakeReport(const v1::AttendTrailer& trailer) {
  AttendReport report;
  report.request_id = trailer.request_id();
  const v1::Timings& timings = trailer.timings();
  report.stages = {.recv = timings.recv(),
                   .queue = timings.queue(),
                   .h2d = timings.h2d(),
                   .prepare = timings.prepare(),
                   .kernel = timings.kernel(),
                   .d2h = timings.d2h(),
                   .send = timings.send(),
                   .total = timings.total()};
  report.effective_tops = trailer.effective_tops();
  report.block_density = trailer.block_density();
  report.bytes_in = trailer.bytes_in();
  report.bytes_out = trailer.bytes_out();
  return report;
}

}  // namespace sage::internal
