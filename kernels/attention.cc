#include "kernels/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"

namespace sage {
namespace {

// Tensors have fewer elements than this.
constexpr std::int64_t kMaxElements = std::int64_t{1} << 62;

template <typename Enum>
struct NamedValue {
  Enum value;
  std::string_view name;
};

constexpr std::array<NamedValue<DType>, 3> kDTypes = {
    {{DType::kFloat16, "fp16"}, {DType::kBFloat16, "bf16"}, {DType::kFloat32, "fp32"}}};
constexpr std::array<NamedValue<Layout>, 2> kLayouts = {
    {{Layout::kHnd, "HND"}, {Layout::kNhd, "NHD"}}};
constexpr std::array<NamedValue<Precision>, 3> kPrecisions = {
    {{Precision::kQkInt8PvFp16, "qk_int8_pv_fp16"},
     {Precision::kQkInt8PvFp8, "qk_int8_pv_fp8"},
     {Precision::kFp16, "fp16"}}};

template <typename Table, typename Enum>
std::string_view NameIn(const Table& table, Enum value) {
  for (const auto& entry : table) {
    if (entry.value == value) return entry.name;
  }
  return "unknown";
}

template <typename Enum, std::size_t kCount>
std::optional<Enum> ParseIn(const std::array<NamedValue<Enum>, kCount>& table,
                            std::string_view name) {
  for (const auto& entry : table) {
    if (entry.name == name) return entry.value;
  }
  return std::nullopt;
}

template <typename Got, typename Allowed>
absl::Status Refuse(std::string_view field, const Got& got, const Allowed& allowed) {
  return absl::InvalidArgumentError(absl::StrCat(absl::string_view(field.data(), field.size()),
                                                 ": got ", got, ", allowed ", allowed));
}

absl::Status CheckDimension(std::string_view field, std::int64_t value) {
  if (value >= 1 && value <= kMaxDimension) return absl::OkStatus();
  return Refuse(field, value, absl::StrCat("1 to ", kMaxDimension));
}

// An enum may hold any number of its width when it came over a wire.
template <typename Table, typename Enum>
absl::Status CheckEnum(std::string_view field, const Table& table, Enum value) {
  std::string allowed;
  for (const auto& entry : table) {
    if (entry.value == value) return absl::OkStatus();
    absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", std::string(entry.name));
  }
  return Refuse(field, static_cast<int>(value), allowed);
}

// `factors` are positive.
absl::Status CheckElements(std::string_view field, const std::array<std::int64_t, 4>& factors) {
  std::int64_t product = 1;
  for (const std::int64_t factor : factors) {
    if (product > (kMaxElements - 1) / factor) {
      return Refuse(
          field,
          absl::StrCat("[", factors[0], ", ", factors[1], ", ", factors[2], ", ", factors[3], "]"),
          "fewer than 2^62 elements");
    }
    product *= factor;
  }
  return absl::OkStatus();
}

absl::Status CheckLengths(std::string_view field, const std::vector<std::int64_t>& lengths,
                          std::int64_t batch, std::int64_t seqlen) {
  if (lengths.empty()) return absl::OkStatus();
  if (static_cast<std::int64_t>(lengths.size()) != batch) {
    return Refuse(field, absl::StrCat(lengths.size(), " entries"),
                  absl::StrCat("none or ", batch, " (batch)"));
  }
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    if (lengths[b] < 0 || lengths[b] > seqlen) {
      return Refuse(absl::StrCat(std::string(field), "[", b, "]"), lengths[b],
                    absl::StrCat("0 to ", seqlen));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::size_t SizeOf(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

std::string_view Name(DType dtype) { return NameIn(kDTypes, dtype); }
std::string_view Name(Layout layout) { return NameIn(kLayouts, layout); }
std::string_view Name(Precision precision) { return NameIn(kPrecisions, precision); }

std::optional<DType> ParseDType(std::string_view name) { return ParseIn(kDTypes, name); }
std::optional<Layout> ParseLayout(std::string_view name) { return ParseIn(kLayouts, name); }
std::optional<Precision> ParsePrecision(std::string_view name) {
  return ParseIn(kPrecisions, name);
}

float AttentionProblem::scale() const {
  return softmax_scale.value_or(1.0F / std::sqrt(static_cast<float>(head_dim)));
}

double AttentionProblem::effective_operations() const {
  const double dense = 4.0 * static_cast<double>(batch) * static_cast<double>(num_heads_q) *
                       static_cast<double>(seqlen_q) * static_cast<double>(seqlen_k) *
                       static_cast<double>(head_dim);
  return is_causal ? dense / 2 : dense;
}

absl::Status ValidateProblem(const AttentionProblem& problem) {
  const AttentionProblem& p = problem;
  const std::array<NamedValue<std::int64_t>, 5> dimensions = {{{p.batch, "batch"},
                                                               {p.num_heads_q, "num_heads_q"},
                                                               {p.num_heads_kv, "num_heads_kv"},
                                                               {p.seqlen_q, "seqlen_q"},
                                                               {p.seqlen_k, "seqlen_k"}}};
  for (const auto& [value, name] : dimensions) {
    if (absl::Status status = CheckDimension(name, value); !status.ok()) return status;
  }
  if (p.num_heads_q % p.num_heads_kv != 0) {
    return Refuse("num_heads_q", p.num_heads_q,
                  absl::StrCat("a multiple of num_heads_kv = ", p.num_heads_kv));
  }
  if (p.head_dim < 8 || p.head_dim > kMaxHeadDim || p.head_dim % 8 != 0) {
    return Refuse("head_dim", p.head_dim, absl::StrCat("a multiple of 8 from 8 to ", kMaxHeadDim));
  }
  if (p.dtype != DType::kFloat16 && p.dtype != DType::kBFloat16) {
    const std::string got(Name(p.dtype));
    return Refuse("dtype", got, "fp16, bf16");
  }
  for (const absl::Status& status :
       {CheckEnum("output_dtype", kDTypes, p.output_dtype), CheckEnum("layout", kLayouts, p.layout),
        CheckEnum("precision", kPrecisions, p.precision),
        CheckElements("q", {p.batch, p.num_heads_q, p.seqlen_q, p.head_dim}),
        CheckElements("k", {p.batch, p.num_heads_kv, p.seqlen_k, p.head_dim}),
        CheckElements("mask", {p.batch, p.num_heads_q, p.tiles_q(), p.blocks_k()}),
        CheckLengths("seqlens_q", p.seqlens_q, p.batch, p.seqlen_q),
        CheckLengths("seqlens_k", p.seqlens_k, p.batch, p.seqlen_k)}) {
    if (!status.ok()) return status;
  }
  if (p.softmax_scale && !(std::isfinite(*p.softmax_scale) && *p.softmax_scale > 0)) {
    return Refuse("softmax_scale", *p.softmax_scale, "finite and positive");
  }
  return absl::OkStatus();
}

}  // namespace sage
