#include "server/codec.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/enum_codec.h"
#include "server/errors.h"
#include "server/mask_codec.h"
#include "server/quantized_codec.h"

namespace sage::server {
namespace {

constexpr std::size_t kMaxRequestIdBytes = 64;
constexpr int kMaxPriority = 10;

// Whether a message of ValidateProblem(), "FIELD: ...", is about a field of AttentionShape.
bool InShape(absl::string_view message) {
  for (const char* field :
       {"batch:", "num_heads_q:", "num_heads_kv:", "seqlen_q:", "seqlen_k:", "head_dim:"}) {
    if (absl::StartsWith(message, field)) return true;
  }
  return false;
}

// Whether `count` from `begin` on are among `size`.
bool IsWithin(std::int64_t begin, std::int64_t count, std::int64_t size) {
  return begin >= 0 && begin <= size && count <= size - begin;
}

// Whether a resident operand of role q, k, v or output is what the request says it is.
absl::Status CheckFits(const ResidentTensor& tensor, const AttentionProblem& problem,
                       const v1::ResidentPart* part, const std::string& field) {
  const TensorSpec& spec = tensor.spec();
  const bool kv = spec.role == TensorRole::kK || spec.role == TensorRole::kV;
  TensorSpec want;
  want.dtype = spec.role == TensorRole::kOutput ? problem.output_dtype : problem.dtype;
  want.layout = problem.layout;
  want.batch = problem.batch;
  want.num_heads = kv ? problem.num_heads_kv : problem.num_heads_q;
  want.seqlen = kv ? problem.seqlen_k : problem.seqlen_q;
  want.head_dim = problem.head_dim;
  const auto describe = [](const TensorSpec& s) {
    return absl::StrCat("batch ", s.batch, ", ", s.num_heads, " heads, ", s.seqlen,
                        " tokens, head_dim ", s.head_dim, ", ", std::string(Name(s.dtype)), ", ",
                        std::string(Name(s.layout)));
  };
  const std::string got_text = describe(spec);
  if (part != nullptr) {
    const std::int64_t head_begin = kv ? part->kv_head_begin() : part->q_head_begin();
    if (!IsWithin(part->batch_begin(), want.batch, spec.batch) ||
        !IsWithin(head_begin, want.num_heads, spec.num_heads)) {
      return InvalidField(
          "header.resident_part",
          absl::StrCat("got batch entries from ", part->batch_begin(), ", ", want.batch,
                       ", and heads from ", head_begin, ", ", want.num_heads, ", of ", field,
                       ", which is a tensor of ", got_text));
    }
    want.batch = spec.batch;
    want.num_heads = spec.num_heads;
  }
  const std::string want_text = describe(want);
  if (got_text == want_text) return absl::OkStatus();
  return InvalidField(field, absl::StrCat("got a tensor of ", got_text, ", allowed ", want_text));
}

absl::Status CheckMaskFits(const ResidentTensor& tensor, const AttentionProblem& problem,
                           const v1::ResidentPart* part, const std::string& field) {
  const BlockMask& mask = tensor.mask()->mask;
  const MaskShape& shape = tensor.spec().mask_shape;
  const auto fits = [part](std::int64_t size, std::int64_t begin, std::int64_t count) {
    return size == 1 || (part == nullptr ? size == count : IsWithin(begin, count, size));
  };
  const std::int64_t batch_begin = part == nullptr ? 0 : part->batch_begin();
  const std::int64_t head_begin = part == nullptr ? 0 : part->q_head_begin();
  if (fits(mask.batch(), batch_begin, problem.batch) &&
      fits(mask.heads(), head_begin, problem.num_heads_q) && shape.seqlen_q == problem.seqlen_q &&
      shape.seqlen_k == problem.seqlen_k) {
    return absl::OkStatus();
  }
  return InvalidField(
      field, absl::StrCat("got a mask of batch ", mask.batch(), ", ", mask.heads(),
                          " heads, seqlen_q ", shape.seqlen_q, ", seqlen_k ", shape.seqlen_k,
                          ", allowed batch 1 or ", problem.batch, ", 1 or ", problem.num_heads_q,
                          " heads", part == nullptr ? "" : " within header.resident_part",
                          ", seqlen_q ", problem.seqlen_q, ", seqlen_k ", problem.seqlen_k));
}

// The tensor that `handle` names, if it has this role and fits the request.
absl::StatusOr<std::shared_ptr<ResidentTensor>> LookUp(
    const v1::TensorHandle& handle, TensorRole role, const AttentionProblem& problem,
    const v1::ResidentPart* part, const TensorLookup& tensors, const std::string& field) {
  const std::string path = absl::StrCat(field, ".handle");
  absl::StatusOr<TensorStore::Handle> found = tensors.Find(handle, path);
  if (!found.ok()) return found.status();
  const ResidentTensor& tensor = *found->tensor;
  if (tensor.spec().role != role) {
    return InvalidField(path, absl::StrCat("got a tensor of role ", Name(tensor.spec().role),
                                           ", allowed ", Name(role)));
  }
  const absl::Status fits = role == TensorRole::kMask ? CheckMaskFits(tensor, problem, part, path)
                                                      : CheckFits(tensor, problem, part, path);
  if (!fits.ok()) return fits;
  return found->tensor;
}

// Operands that one request reads and writes must be on one device.
absl::Status CheckTogether(const ResidentOperands& operands) {
  const Device* const device = operands.device();
  const std::pair<const char*, const ResidentTensor*> all[] = {
      {"header.q", operands.q.get()},
      {"header.k", operands.k.get()},
      {"header.v", operands.v.get()},
      {"header.mask", operands.mask.get()},
      {"header.output", operands.output.get()}};
  for (const auto& [field, tensor] : all) {
    if (tensor != nullptr && &tensor->device() != device) {
      return InvalidField(absl::StrCat(field, ".handle"),
                          "kept on another device than the tensors before it; put tensors that are "
                          "used together in one placement_group");
    }
  }
  return absl::OkStatus();
}

absl::Status DecodeOperand(const v1::Operand& operand, TensorRole role,
                           const AttentionProblem& problem, const v1::ResidentPart* part,
                           const TensorLookup& tensors, const std::string& field,
                           std::shared_ptr<ResidentTensor>& resident) {
  switch (operand.source_case()) {
    case v1::Operand::kHandle: {
      absl::StatusOr<std::shared_ptr<ResidentTensor>> found =
          LookUp(operand.handle(), role, problem, part, tensors, field);
      if (!found.ok()) return found.status();
      resident = *std::move(found);
      return absl::OkStatus();
    }
    case v1::Operand::kQuantized:
    case v1::Operand::SOURCE_NOT_SET:
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status CheckRequestId(const std::string& request_id) {
  if (request_id.size() > kMaxRequestIdBytes ||
      !std::all_of(request_id.begin(), request_id.end(), absl::ascii_isgraph)) {
    return InvalidField("header.request_id", absl::StrCat("allowed up to ", kMaxRequestIdBytes,
                                                          " printable ASCII characters"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JobSpec> DecodeHeader(const v1::AttendHeader& header, std::uint64_t max_mask_bytes,
                                     const TensorLookup& tensors) {
  JobSpec spec;
  AttentionProblem& problem = spec.problem;
  problem.batch = header.shape().batch();
  problem.num_heads_q = header.shape().num_heads_q();
  problem.num_heads_kv = header.shape().num_heads_kv();
  problem.seqlen_q = header.shape().seqlen_q();
  problem.seqlen_k = header.shape().seqlen_k();
  problem.head_dim = header.shape().head_dim();

  absl::StatusOr<DType> dtype = DecodeDType(header.dtype(), "header.dtype");
  if (!dtype.ok()) return dtype.status();
  problem.dtype = problem.output_dtype = *dtype;
  if (header.output_dtype() != v1::DATA_TYPE_UNSPECIFIED) {
    dtype = DecodeDType(header.output_dtype(), "header.output_dtype");
    if (!dtype.ok()) return dtype.status();
    problem.output_dtype = *dtype;
  }
  absl::StatusOr<Layout> layout = DecodeLayout(header.layout(), "header.layout");
  if (!layout.ok()) return layout.status();
  problem.layout = *layout;
  absl::StatusOr<Precision> precision = DecodePrecision(header.precision(), "header.precision");
  if (!precision.ok()) return precision.status();
  problem.precision = *precision;
  problem.is_causal = header.is_causal();
  if (header.has_softmax_scale()) problem.softmax_scale = header.softmax_scale();
  problem.return_lse = header.return_lse();
  problem.seqlens_q.assign(header.seqlens_q().begin(), header.seqlens_q().end());
  problem.seqlens_k.assign(header.seqlens_k().begin(), header.seqlens_k().end());
  if (absl::Status status = ValidateProblem(problem); !status.ok()) {
    const bool in_shape = InShape(status.message());
    return WithFieldPath(status, in_shape ? "header.shape" : "header");
  }

  if (header.priority() < -kMaxPriority || header.priority() > kMaxPriority) {
    return InvalidField("header.priority", absl::StrCat("got ", header.priority(), ", allowed ",
                                                        -kMaxPriority, " to ", kMaxPriority));
  }
  if (absl::Status status = CheckRequestId(header.request_id()); !status.ok()) return status;
  spec.request_id = header.request_id();
  spec.priority = header.priority();

  const v1::ResidentPart* const part =
      header.has_resident_part() ? &header.resident_part() : nullptr;
  for (const auto& [name, begin] :
       {std::pair("batch_begin", header.resident_part().batch_begin()),
        std::pair("q_head_begin", header.resident_part().q_head_begin()),
        std::pair("kv_head_begin", header.resident_part().kv_head_begin())}) {
    if (begin < 0 || begin > kMaxDimension) {
      return InvalidField(absl::StrCat("header.resident_part.", name),
                          absl::StrCat("got ", begin, ", allowed 0 to ", kMaxDimension));
    }
  }
  ResidentOperands& resident = spec.resident;
  resident.batch_begin = header.resident_part().batch_begin();
  resident.q_head_begin = header.resident_part().q_head_begin();
  resident.kv_head_begin = header.resident_part().kv_head_begin();
  absl::Status status =
      DecodeOperand(header.q(), TensorRole::kQ, problem, part, tensors, "header.q", resident.q);
  if (status.ok()) {
    status =
        DecodeOperand(header.k(), TensorRole::kK, problem, part, tensors, "header.k", resident.k);
  }
  if (status.ok()) {
    status =
        DecodeOperand(header.v(), TensorRole::kV, problem, part, tensors, "header.v", resident.v);
  }
  if (!status.ok()) return status;
  absl::StatusOr<QuantizedScales> quantized = DecodeQuantized(header, problem);
  if (!quantized.ok()) return quantized.status();
  spec.quantized = *std::move(quantized);
  if (header.output().has_handle()) {
    auto found = LookUp(header.output().handle(), TensorRole::kOutput, problem, part, tensors,
                        "header.output");
    if (!found.ok()) return found.status();
    resident.output = *std::move(found);
  }
  if (header.mask().has_handle()) {
    auto found =
        LookUp(header.mask().handle(), TensorRole::kMask, problem, part, tensors, "header.mask");
    if (!found.ok()) return found.status();
    resident.mask = *std::move(found);
  } else if (header.has_mask()) {
    absl::StatusOr<DecodedMask> mask =
        DecodeMask(header.mask(), problem, max_mask_bytes, "header.mask");
    if (!mask.ok()) return mask.status();
    spec.mask_bytes = mask->bytes;
    spec.make_mask = std::move(mask->make);
  }
  spec.omit_unused_kv = header.omit_unused_kv();
  if (spec.omit_unused_kv && resident.mask != nullptr) {
    return InvalidField("header.omit_unused_kv", "not allowed with mask.handle");
  }
  if (absl::Status together = CheckTogether(resident); !together.ok()) return together;
  return spec;
}

std::optional<Piece> PayloadPiece(v1::TensorRole role) {
  switch (role) {
    case v1::TENSOR_ROLE_Q:
      return Piece::kQ;
    case v1::TENSOR_ROLE_K:
      return Piece::kK;
    case v1::TENSOR_ROLE_V:
      return Piece::kV;
    default:
      return std::nullopt;
  }
}

v1::TensorRole Role(Piece piece) {
  switch (piece) {
    case Piece::kQ:
      return v1::TENSOR_ROLE_Q;
    case Piece::kK:
      return v1::TENSOR_ROLE_K;
    case Piece::kV:
      return v1::TENSOR_ROLE_V;
    case Piece::kOut:
      return v1::TENSOR_ROLE_OUTPUT;
    case Piece::kLse:
      return v1::TENSOR_ROLE_LSE;
  }
  return v1::TENSOR_ROLE_UNSPECIFIED;
}

void ToProto(const Unit& unit, v1::Unit* proto) {
  proto->set_batch(unit.batch);
  proto->set_kv_head_begin(unit.kv_head_begin);
  proto->set_kv_head_count(unit.kv_head_count);
  proto->set_q_begin(unit.q_begin);
  proto->set_q_count(unit.q_count);
  proto->set_kv_unit(unit.kv_unit);
}

}  // namespace sage::server
