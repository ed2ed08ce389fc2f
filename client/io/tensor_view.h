// Tensors in files, as they lie there.
#ifndef SAGE_CLIENT_IO_TENSOR_VIEW_H_
#define SAGE_CLIENT_IO_TENSOR_VIEW_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sage {

enum class ElementType : std::uint8_t { kFloat16, kBFloat16, kFloat32, kUInt8, kBool };

std::size_t SizeOf(ElementType type);
const char* Name(ElementType type);  // "float16", "bfloat16", "float32", "uint8", "bool"

// "[1, 2, 3]"
std::string ShapeText(const std::vector<std::int64_t>& shape);

// Bytes of a packed tensor; nothing where a dimension is negative or they do not fit in 62 bits.
std::optional<std::int64_t> TensorBytes(ElementType type, const std::vector<std::int64_t>& shape);

// A packed tensor in C order, aligned to its element. Does not own.
struct TensorView {
  ElementType type = ElementType::kFloat16;
  std::vector<std::int64_t> shape;
  const std::byte* data = nullptr;
  std::int64_t bytes = 0;
};

}  // namespace sage

#endif  // SAGE_CLIENT_IO_TENSOR_VIEW_H_
