// The .npy format, versions 1 and 2.
// Source: NEP 1, "A simple file format for NumPy arrays".
#ifndef SAGE_CLIENT_IO_NPY_H_
#define SAGE_CLIENT_IO_NPY_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/io/tensor_view.h"

namespace sage {

// Reads '<f2', '<f4', '|b1', '|u1' and '|i1' (as uint8) arrays in C order; the view points into
// `file`. INVALID_ARGUMENT, with what to do, for other arrays, and for a file that is damaged in
// any way: no content of a file makes this read outside of it. Error messages lack the file's name.
absl::StatusOr<TensorView> ParseNpy(std::span<const std::byte> file);

// The bytes before the elements of an array; a multiple of 64. `type` is not kBFloat16, which the
// format lacks.
std::string NpyHeader(ElementType type, const std::vector<std::int64_t>& shape);

}  // namespace sage

#endif  // SAGE_CLIENT_IO_NPY_H_
