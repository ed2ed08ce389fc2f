#include "server/tensor_codec.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/wire/enums.h"
#include "server/enum_codec.h"
#include "server/errors.h"
#include "server/mask_codec.h"

namespace sage::server {
namespace {

constexpr std::size_t kMaxKeyBytes = 64;
constexpr std::size_t kMaxGroupBytes = 64;

absl::StatusOr<TensorRole> DecodeRole(v1::TensorRole role) {
  switch (role) {
    case v1::TENSOR_ROLE_Q:
      return TensorRole::kQ;
    case v1::TENSOR_ROLE_K:
      return TensorRole::kK;
    case v1::TENSOR_ROLE_V:
      return TensorRole::kV;
    case v1::TENSOR_ROLE_OUTPUT:
      return TensorRole::kOutput;
    case v1::TENSOR_ROLE_MASK:
      return TensorRole::kMask;
    default:
      return InvalidField("spec.role", absl::StrCat("got ", static_cast<int>(role),
                                                    ", allowed Q (1), K (2), V (3), OUTPUT (4), "
                                                    "MASK (6)"));
  }
}

// Dimensions in range, and few enough elements that no product overflows.
absl::Status CheckShape(const TensorSpec& spec) {
  const std::pair<const char*, std::int64_t> dimensions[] = {
      {"batch", spec.batch}, {"num_heads", spec.num_heads}, {"seqlen", spec.seqlen}};
  constexpr std::int64_t kMaxElements = std::int64_t{1} << 60;
  std::int64_t elements = kMaxHeadDim;
  for (const auto& [name, size] : dimensions) {
    if (size < 1 || size > kMaxDimension) {
      return InvalidField(absl::StrCat("spec.", name),
                          absl::StrCat("got ", size, ", allowed 1 to ", kMaxDimension));
    }
    if (size > kMaxElements / elements) {
      return InvalidField("spec", absl::StrCat("a tensor of 2^60 elements or more"));
    }
    elements *= size;
  }
  if (spec.head_dim < 8 || spec.head_dim > kMaxHeadDim || spec.head_dim % 8 != 0) {
    return InvalidField(
        "spec.head_dim",
        absl::StrCat("got ", spec.head_dim, ", allowed multiples of 8 up to ", kMaxHeadDim));
  }
  return absl::OkStatus();
}

absl::Status DecodeElements(const v1::TensorSpec& wire, TensorSpec& spec) {
  absl::StatusOr<DType> dtype = DecodeDType(wire.dtype(), "spec.dtype");
  if (!dtype.ok()) return dtype.status();
  if (*dtype == DType::kFloat32 && spec.role != TensorRole::kOutput) {
    return InvalidField("spec.dtype", "got FLOAT32, allowed FLOAT16, BFLOAT16");
  }
  spec.dtype = *dtype;
  absl::StatusOr<Layout> layout = DecodeLayout(wire.layout(), "spec.layout");
  if (!layout.ok()) return layout.status();
  spec.layout = *layout;
  spec.batch = wire.batch();
  spec.num_heads = wire.num_heads();
  spec.seqlen = wire.seqlen();
  spec.head_dim = wire.head_dim();
  if (wire.has_mask() || wire.has_mask_shape()) {
    return InvalidField("spec.mask", absl::StrCat("not allowed with role ", Name(spec.role)));
  }
  if (absl::Status status = CheckShape(spec); !status.ok()) return status;
  if (spec.role != TensorRole::kK) return absl::OkStatus();
  for (const int value : wire.precisions()) {
    absl::StatusOr<Precision> precision =
        DecodePrecision(static_cast<v1::Precision>(value), "spec.precisions");
    if (!precision.ok()) return precision.status();
    if (std::find(spec.precisions.begin(), spec.precisions.end(), *precision) ==
        spec.precisions.end()) {
      spec.precisions.push_back(*precision);
    }
  }
  if (spec.precisions.empty()) spec.precisions = {Precision::kQkInt8PvFp16};
  return absl::OkStatus();
}

absl::Status DecodeMaskSpec(const v1::TensorSpec& wire, std::uint64_t max_mask_bytes,
                            PutSpec& put) {
  AttentionProblem problem;
  problem.batch = wire.mask_shape().batch();
  problem.num_heads_q = wire.mask_shape().num_heads_q();
  problem.num_heads_kv = wire.mask_shape().num_heads_kv();
  problem.seqlen_q = wire.mask_shape().seqlen_q();
  problem.seqlen_k = wire.mask_shape().seqlen_k();
  problem.head_dim = wire.mask_shape().head_dim();
  if (absl::Status status = ValidateProblem(problem); !status.ok()) {
    return WithFieldPath(status, "spec.mask_shape");
  }
  put.tensor.mask_shape = {problem.batch,    problem.num_heads_q, problem.num_heads_kv,
                           problem.seqlen_q, problem.seqlen_k,    problem.head_dim};
  absl::StatusOr<DecodedMask> mask = DecodeMask(wire.mask(), problem, max_mask_bytes, "spec.mask");
  if (!mask.ok()) return mask.status();
  put.mask_bytes = mask->bytes;
  put.make_mask = std::move(mask->make);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PutSpec> DecodePut(const v1::PutRequest& request, std::uint64_t max_mask_bytes) {
  const v1::TensorSpec& wire = request.spec();
  PutSpec put;
  absl::StatusOr<TensorRole> role = DecodeRole(wire.role());
  if (!role.ok()) return role.status();
  put.tensor.role = *role;
  const absl::Status status = *role == TensorRole::kMask ? DecodeMaskSpec(wire, max_mask_bytes, put)
                                                         : DecodeElements(wire, put.tensor);
  if (!status.ok()) return status;
  if (wire.placement_group().size() > kMaxGroupBytes) {
    return InvalidField("spec.placement_group",
                        absl::StrCat("got ", wire.placement_group().size(),
                                     " bytes, allowed at most ", kMaxGroupBytes));
  }
  put.tensor.placement_group = wire.placement_group();
  auto lease = DecodeLease(wire.has_lease(), wire.lease(), "spec.lease");
  if (!lease.ok()) return lease.status();
  put.lease = *lease;
  if (request.idempotency_key().size() > kMaxKeyBytes) {
    return InvalidField("idempotency_key", absl::StrCat("got ", request.idempotency_key().size(),
                                                        " bytes, allowed at most ", kMaxKeyBytes));
  }
  put.idempotency_key = request.idempotency_key();
  return put;
}

absl::StatusOr<std::optional<std::chrono::milliseconds>> DecodeLease(
    bool present, const google::protobuf::Duration& lease, absl::string_view field) {
  if (!present) return std::nullopt;
  // Longer than any that is granted, and small enough to count in milliseconds.
  constexpr std::int64_t kLongSeconds = std::int64_t{1} << 40;
  if (lease.seconds() < 0 || lease.nanos() < 0 || lease.nanos() > 999999999 ||
      (lease.seconds() == 0 && lease.nanos() == 0)) {
    return InvalidField(field, absl::StrCat("got ", lease.seconds(), " s and ", lease.nanos(),
                                            " ns, allowed a positive duration"));
  }
  return std::chrono::seconds(std::min(lease.seconds(), kLongSeconds)) +
         std::chrono::ceil<std::chrono::milliseconds>(std::chrono::nanoseconds(lease.nanos()));
}

void ToProto(const ResidentTensor& tensor, v1::TensorSpec* proto) {
  const TensorSpec& spec = tensor.spec();
  proto->set_role(ToProto(spec.role));
  proto->set_placement_group(spec.placement_group);
  if (spec.role == TensorRole::kMask) {
    const BlockMask& mask = tensor.mask()->mask;
    proto->mutable_mask()->mutable_packed()->set_batch(mask.batch());
    proto->mutable_mask()->mutable_packed()->set_num_heads(mask.heads());
    v1::AttentionShape& shape = *proto->mutable_mask_shape();
    shape.set_batch(spec.mask_shape.batch);
    shape.set_num_heads_q(spec.mask_shape.num_heads_q);
    shape.set_num_heads_kv(spec.mask_shape.num_heads_kv);
    shape.set_seqlen_q(spec.mask_shape.seqlen_q);
    shape.set_seqlen_k(spec.mask_shape.seqlen_k);
    shape.set_head_dim(spec.mask_shape.head_dim);
    return;
  }
  proto->set_dtype(sage::ToProto(spec.dtype));
  proto->set_layout(spec.layout == Layout::kHnd ? v1::LAYOUT_HND : v1::LAYOUT_NHD);
  proto->set_batch(spec.batch);
  proto->set_num_heads(spec.num_heads);
  proto->set_seqlen(spec.seqlen);
  proto->set_head_dim(spec.head_dim);
  for (const Precision precision : spec.precisions) proto->add_precisions(sage::ToProto(precision));
}

void ToProto(std::chrono::milliseconds duration, google::protobuf::Duration* proto) {
  proto->set_seconds(duration.count() / 1000);
  proto->set_nanos(static_cast<std::int32_t>(duration.count() % 1000 * 1000000));
}

v1::TensorRole ToProto(TensorRole role) {
  switch (role) {
    case TensorRole::kQ:
      return v1::TENSOR_ROLE_Q;
    case TensorRole::kK:
      return v1::TENSOR_ROLE_K;
    case TensorRole::kV:
      return v1::TENSOR_ROLE_V;
    case TensorRole::kOutput:
      return v1::TENSOR_ROLE_OUTPUT;
    case TensorRole::kMask:
      return v1::TENSOR_ROLE_MASK;
  }
  return v1::TENSOR_ROLE_UNSPECIFIED;
}

}  // namespace sage::server
