#include "client/io/tensor_view.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sage {

std::size_t SizeOf(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
    case ElementType::kBFloat16:
      return 2;
    case ElementType::kFloat32:
      return 4;
    case ElementType::kUInt8:
    case ElementType::kBool:
      return 1;
  }
  return 0;
}

const char* Name(ElementType type) {
  switch (type) {
    case ElementType::kFloat16:
      return "float16";
    case ElementType::kBFloat16:
      return "bfloat16";
    case ElementType::kFloat32:
      return "float32";
    case ElementType::kUInt8:
      return "uint8";
    case ElementType::kBool:
      return "bool";
  }
  return "";
}

std::string ShapeText(const std::vector<std::int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

std::optional<std::int64_t> TensorBytes(ElementType type, const std::vector<std::int64_t>& shape) {
  constexpr std::int64_t kLargest = std::int64_t{1} << 62;
  auto bytes = static_cast<std::int64_t>(SizeOf(type));
  bool empty = false;
  for (const std::int64_t dimension : shape) {
    if (dimension < 0) return std::nullopt;
    empty = empty || dimension == 0;
    if (dimension != 0 && bytes > kLargest / dimension) return std::nullopt;
    if (dimension != 0) bytes *= dimension;
  }
  return empty ? 0 : bytes;
}

}  // namespace sage
