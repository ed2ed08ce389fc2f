// The .safetensors format.
// Source: the format's description at github.com/huggingface/safetensors.
#ifndef SAGE_CLIENT_IO_SAFETENSORS_H_
#define SAGE_CLIENT_IO_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/io/tensor_view.h"

namespace sage {

// Reads F16, BF16, F32, U8, I8 (as uint8) and BOOL tensors, by name; tensors of other types are
// left out. Views point into `file`. INVALID_ARGUMENT for a file that is damaged in any way, be it
// overlaps or gaps between tensors: no content of a file makes this read outside of it. Error
// messages lack the file's name.
absl::StatusOr<std::map<std::string, TensorView>> ParseSafetensors(std::span<const std::byte> file);

struct NamedTensor {
  std::string name;
  ElementType type = ElementType::kFloat16;
  std::vector<std::int64_t> shape;
};

// The bytes before the elements of tensors that follow one another in this order; a multiple of 8,
// so that tensors are aligned where larger elements come first.
std::string SafetensorsHeader(const std::vector<NamedTensor>& tensors);

}  // namespace sage

#endif  // SAGE_CLIENT_IO_SAFETENSORS_H_
