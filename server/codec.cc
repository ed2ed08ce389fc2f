#include "server/codec.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "server/errors.h"
#include "server/quantized_codec.h"

namespace sage::server {
namespace {

constexpr std::size_t kHandleBytes = 16;
constexpr std::size_t kMaxRequestIdBytes = 64;
constexpr int kMaxPriority = 10;

absl::StatusOr<DType> DecodeDType(v1::DataType dtype, absl::string_view field) {
  switch (dtype) {
    case v1::DATA_TYPE_FLOAT16:
      return DType::kFloat16;
    case v1::DATA_TYPE_BFLOAT16:
      return DType::kBFloat16;
    case v1::DATA_TYPE_FLOAT32:
      return DType::kFloat32;
    default:
      return InvalidField(
          field, absl::StrCat("got ", v1::DataType_Name(dtype), " (", static_cast<int>(dtype),
                              "), allowed FLOAT16, BFLOAT16 and, for output, FLOAT32"));
  }
}

absl::StatusOr<Layout> DecodeLayout(v1::Layout layout) {
  switch (layout) {
    case v1::LAYOUT_HND:
      return Layout::kHnd;
    case v1::LAYOUT_NHD:
      return Layout::kNhd;
    default:
      return InvalidField("header.layout", absl::StrCat("got ", static_cast<int>(layout),
                                                        ", allowed HND (1), NHD (2)"));
  }
}

absl::StatusOr<Precision> DecodePrecision(v1::Precision precision) {
  switch (precision) {
    case v1::PRECISION_UNSPECIFIED:
    case v1::PRECISION_QK_INT8_PV_FP16:
      return Precision::kQkInt8PvFp16;
    case v1::PRECISION_QK_INT8_PV_FP8:
      return Precision::kQkInt8PvFp8;
    case v1::PRECISION_FP16:
      return Precision::kFp16;
    default:
      return InvalidField("header.precision",
                          absl::StrCat("got ", static_cast<int>(precision), ", allowed 0 to 3"));
  }
}

// Whether a message of ValidateProblem(), "FIELD: ...", is about a field of AttentionShape.
bool InShape(absl::string_view message) {
  for (const char* field :
       {"batch:", "num_heads_q:", "num_heads_kv:", "seqlen_q:", "seqlen_k:", "head_dim:"}) {
    if (absl::StartsWith(message, field)) return true;
  }
  return false;
}

// No tensor is resident on this server, so a well-formed handle is an unknown one.
absl::Status LookUp(const v1::TensorHandle& handle, absl::string_view field) {
  if (handle.id().size() != kHandleBytes) {
    return InvalidField(absl::StrCat(field, ".handle.id"),
                        absl::StrCat("got ", handle.id().size(), " bytes, allowed ", kHandleBytes));
  }
  return absl::NotFoundError(absl::StrCat(field, ".handle: no such tensor"));
}

absl::Status CheckOperand(const v1::Operand& operand, absl::string_view field) {
  switch (operand.source_case()) {
    case v1::Operand::kHandle:
      return LookUp(operand.handle(), field);
    case v1::Operand::kQuantized:
    case v1::Operand::SOURCE_NOT_SET:
      return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::StatusOr<MaskPattern> DecodePattern(const v1::MaskPattern& pattern) {
  if (pattern.per_element()) {
    return absl::UnimplementedError(
        "header.mask.pattern.per_element: only per-block patterns are served by this server");
  }
  switch (pattern.kind_case()) {
    case v1::MaskPattern::kSlidingWindow:
      return SlidingWindowPattern{pattern.sliding_window().left_blocks(),
                                  pattern.sliding_window().right_blocks()};
    case v1::MaskPattern::kSinkWindow:
      return SinkWindowPattern{pattern.sink_window().sink_blocks(),
                               pattern.sink_window().left_blocks()};
    case v1::MaskPattern::kStrided:
      return StridedPattern{pattern.strided().stride_blocks(), pattern.strided().phase_blocks(),
                            pattern.strided().local_blocks()};
    case v1::MaskPattern::kBand:
      return BandPattern{pattern.band().lower_blocks(), pattern.band().upper_blocks()};
    case v1::MaskPattern::kDocuments:
      return DocumentPattern{
          {pattern.documents().lengths().begin(), pattern.documents().lengths().end()}};
    case v1::MaskPattern::KIND_NOT_SET:
      break;
  }
  return InvalidField("header.mask.pattern.kind", "got none, allowed one of the patterns");
}

absl::StatusOr<BlockMask> MakePacked(const v1::PackedBlockMask& packed,
                                     const AttentionProblem& problem) {
  absl::StatusOr<BlockMask> mask = BlockMask::FromPacked(
      problem, packed.batch(), packed.num_heads(),
      std::span(reinterpret_cast<const std::uint8_t*>(packed.bits().data()), packed.bits().size()));
  if (mask.ok()) return mask;
  // BlockMask's errors speak of one mask; a request has a field for each of its parts.
  const std::pair<absl::string_view, absl::string_view> error =
      absl::StrSplit(mask.status().message(), absl::MaxSplits(": ", 1));
  const char* const field = error.first == "mask batch"   ? "batch"
                            : error.first == "mask heads" ? "num_heads"
                                                          : "bits";
  return InvalidField(absl::StrCat("header.mask.packed.", field), error.second);
}

absl::StatusOr<BlockMask> MakePattern(const MaskPattern& pattern, const AttentionProblem& problem) {
  absl::StatusOr<BlockMask> mask = BlockMask::FromPattern(problem, pattern);
  if (!mask.ok()) return WithFieldPath(mask.status(), "header.mask.pattern");
  return mask;
}

// Sets the size of the mask and how to build it. `spec.problem` is valid, so sizes do not overflow.
absl::Status DecodeMask(const v1::BlockMask& mask, std::uint64_t max_mask_bytes, JobSpec& spec) {
  const AttentionProblem& problem = spec.problem;
  spec.mask_bytes = problem.tiles_q() * CeilDiv(problem.blocks_k(), 8);
  switch (mask.kind_case()) {
    case v1::BlockMask::kPacked:
      // Any other number of bits is refused, so their number is the size.
      spec.mask_bytes = mask.packed().bits().size();
      spec.make_mask = [packed = mask.packed(), problem] { return MakePacked(packed, problem); };
      break;
    case v1::BlockMask::kPattern: {
      absl::StatusOr<MaskPattern> pattern = DecodePattern(mask.pattern());
      if (!pattern.ok()) return pattern.status();
      spec.make_mask = [pattern = *std::move(pattern), problem] {
        return MakePattern(pattern, problem);
      };
      break;
    }
    case v1::BlockMask::kHandle:
      return LookUp(mask.handle(), "header.mask");
    case v1::BlockMask::kPredicted:
      return absl::UnimplementedError("header.mask.predicted: not served by this server");
    case v1::BlockMask::KIND_NOT_SET:
      return InvalidField("header.mask.kind", "got none; leave mask out for full attention");
  }
  if (spec.mask_bytes > max_mask_bytes) {
    return NeverFits(
        "server.max_mask_bytes",
        absl::StrCat("the mask has ", spec.mask_bytes, " bytes, the limit is ", max_mask_bytes));
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

absl::StatusOr<JobSpec> DecodeHeader(const v1::AttendHeader& header, std::uint64_t max_mask_bytes) {
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
  absl::StatusOr<Layout> layout = DecodeLayout(header.layout());
  if (!layout.ok()) return layout.status();
  problem.layout = *layout;
  absl::StatusOr<Precision> precision = DecodePrecision(header.precision());
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

  if (absl::Status s = CheckOperand(header.q(), "header.q"); !s.ok()) return s;
  if (absl::Status s = CheckOperand(header.k(), "header.k"); !s.ok()) return s;
  if (absl::Status s = CheckOperand(header.v(), "header.v"); !s.ok()) return s;
  absl::StatusOr<QuantizedScales> quantized = DecodeQuantized(header, problem);
  if (!quantized.ok()) return quantized.status();
  spec.quantized = *std::move(quantized);
  if (header.output().has_handle()) return LookUp(header.output().handle(), "header.output");
  if (header.has_mask()) {
    if (absl::Status s = DecodeMask(header.mask(), max_mask_bytes, spec); !s.ok()) return s;
  }
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
