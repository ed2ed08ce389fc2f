#include "client/io/npy.h"

#include <cstring>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace sage {
namespace {

constexpr absl::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kMaxDimensions = 32;  // numpy's own limit

absl::Status DamagedNpy(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("not a usable .npy file: ", what));
}

absl::StatusOr<ElementType> ParseDescr(absl::string_view descr) {
  if (descr == "<f2") return ElementType::kFloat16;
  if (descr == "<f4") return ElementType::kFloat32;
  if (descr == "|b1") return ElementType::kBool;
  if (descr == "|u1" || descr == "|i1") return ElementType::kUInt8;
  std::string hint = "; convert it first, for instance x.astype(numpy.float16)";
  if (descr == "<u2" || descr == "<V2" || descr == "|V2") {
    hint = "; if these are bfloat16, save them as .safetensors, since .npy has no bfloat16";
  } else if (!descr.empty() && descr.front() == '>') {
    hint = "; big-endian, convert it first: x.astype(x.dtype.newbyteorder('<'))";
  }
  return absl::InvalidArgumentError(absl::StrCat("array of type '", descr,
                                                 "'; float16 ('<f2'), float32 ('<f4'), bool and "
                                                 "uint8 are read",
                                                 hint));
}

// The header: a Python dict literal with the keys descr, fortran_order and shape, each once.
class HeaderParser {
 public:
  explicit HeaderParser(absl::string_view text) : rest_(text) {}

  absl::Status Parse() {
    if (!Take("{")) return DamagedNpy("its header is no dict");
    while (!Take("}")) {
      const std::optional<absl::string_view> key = Quoted();
      if (!key || !Take(":")) return DamagedNpy("its header is no dict");
      if (*key == "descr" && descr.empty()) {
        const std::optional<absl::string_view> value = Quoted();
        if (!value) {
          return absl::InvalidArgumentError(
              "array with a structured type; plain float16, float32, bool and uint8 are read");
        }
        descr = *value;
      } else if (*key == "fortran_order" && !has_order_) {
        has_order_ = true;
        fortran_order = Take("True");
        if (!fortran_order && !Take("False")) return DamagedNpy("fortran_order is no bool");
      } else if (*key == "shape" && !has_shape_) {
        has_shape_ = true;
        if (!ParseShape()) return DamagedNpy("its shape is no tuple of lengths");
      } else {
        return DamagedNpy(absl::StrCat("header key '", *key, "'"));
      }
      if (!Take(",") && Peek() != '}') return DamagedNpy("its header is no dict");
    }
    if (!absl::StripAsciiWhitespace(rest_).empty()) return DamagedNpy("its header goes on after }");
    if (descr.empty() || !has_order_ || !has_shape_) return DamagedNpy("its header lacks a key");
    return absl::OkStatus();
  }

  absl::string_view descr;
  bool fortran_order = false;
  std::vector<std::int64_t> shape;

 private:
  char Peek() {
    rest_ = absl::StripLeadingAsciiWhitespace(rest_);
    return rest_.empty() ? '\0' : rest_.front();
  }

  bool Take(absl::string_view token) {
    Peek();
    return absl::ConsumePrefix(&rest_, token);
  }

  std::optional<absl::string_view> Quoted() {
    const char quote = Peek();
    if (quote != '\'' && quote != '"') return std::nullopt;
    const std::size_t end = rest_.find(quote, 1);
    if (end == absl::string_view::npos) return std::nullopt;
    const absl::string_view text = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return text;
  }

  bool ParseShape() {
    if (!Take("(")) return false;
    while (!Take(")")) {
      Peek();
      std::size_t digits = 0;
      while (digits < rest_.size() && absl::ascii_isdigit(rest_[digits])) ++digits;
      std::int64_t dimension;
      if (!absl::SimpleAtoi(rest_.substr(0, digits), &dimension)) return false;
      if (shape.size() == kMaxDimensions) return false;
      shape.push_back(dimension);
      rest_.remove_prefix(digits);
      if (!Take(",") && Peek() != ')') return false;
    }
    return true;
  }

  absl::string_view rest_;
  bool has_order_ = false;
  bool has_shape_ = false;
};

}  // namespace

absl::StatusOr<TensorView> ParseNpy(std::span<const std::byte> file) {
  const absl::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.substr(0, kMagic.size()) != kMagic)
    return DamagedNpy("it does not begin with \\x93NUMPY");
  const auto byte_at = [&](std::size_t i) { return static_cast<std::size_t>(file[i]); };
  const std::size_t version_end = kMagic.size() + 2;
  if (text.size() < version_end) return DamagedNpy("it ends in its first bytes");
  const std::size_t major = byte_at(kMagic.size());
  if (major != 1 && major != 2) {
    return DamagedNpy(absl::StrCat("version ", major, "; 1 and 2 are read"));
  }
  const std::size_t length_bytes = major == 1 ? 2 : 4;
  const std::size_t header_begin = version_end + length_bytes;
  if (text.size() < header_begin) return DamagedNpy("it ends in its first bytes");
  std::size_t header_size = 0;
  for (std::size_t i = 0; i < length_bytes; ++i) header_size |= byte_at(version_end + i) << (8 * i);
  if (header_size > text.size() - header_begin) return DamagedNpy("it ends within its header");

  HeaderParser header(text.substr(header_begin, header_size));
  if (absl::Status status = header.Parse(); !status.ok()) return status;
  absl::StatusOr<ElementType> type = ParseDescr(header.descr);
  if (!type.ok()) return type.status();
  if (header.fortran_order && header.shape.size() > 1) {
    return absl::InvalidArgumentError(
        "array in Fortran order; save numpy.ascontiguousarray(x) instead");
  }

  const std::size_t data_begin = header_begin + header_size;
  const auto available = static_cast<std::int64_t>(text.size() - data_begin);
  const std::optional<std::int64_t> bytes = TensorBytes(*type, header.shape);
  if (!bytes || *bytes != available) {
    return DamagedNpy(absl::StrCat("shape ", ShapeText(header.shape), " of ", Name(*type),
                                   " takes ", bytes ? absl::StrCat(*bytes) : "too many",
                                   " bytes, the file has ", available));
  }
  if (data_begin % SizeOf(*type) != 0) return DamagedNpy("its elements are not aligned");
  return TensorView{*type, std::move(header.shape), file.data() + data_begin, *bytes};
}

std::string NpyHeader(ElementType type, const std::vector<std::int64_t>& shape) {
  const absl::string_view descr = type == ElementType::kFloat16   ? "<f2"
                                  : type == ElementType::kFloat32 ? "<f4"
                                  : type == ElementType::kBool    ? "|b1"
                                                                  : "|u1";
  std::string dict =
      absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (",
                   absl::StrJoin(shape, ", "), shape.size() == 1 ? ",)" : ")", ", }");
  constexpr std::size_t kAlignment = 64;
  const std::size_t begin = kMagic.size() + 4;
  const std::size_t end = (begin + dict.size() + 1 + kAlignment - 1) / kAlignment * kAlignment;
  dict.append(end - begin - dict.size() - 1, ' ');
  dict.push_back('\n');
  std::string header(kMagic.data(), kMagic.size());
  header.append(
      {'\x01', '\x00', static_cast<char>(dict.size() & 0xff), static_cast<char>(dict.size() >> 8)});
  return header + dict;
}

}  // namespace sage
