#include "tests/golden/npy_reader.h"

#include <fstream>
#include <iterator>
#include <sstream>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace sage::golden {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("no file ", path));
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// Little-endian integer at `offset`; 0 past the end.
template <typename T>
T IntegerAt(std::string_view bytes, std::size_t offset) {
  T value = 0;
  if (offset + sizeof value <= bytes.size()) {
    std::memcpy(&value, bytes.data() + offset, sizeof value);
  }
  return value;
}

// Magic "\x93NUMPY", version 1.0, length of the header, the header (a Python dict), the elements.
absl::StatusOr<NpyArray> ParseNpy(std::string_view bytes) {
  constexpr std::string_view kMagic("\x93NUMPY\x01\x00", 8);
  const std::size_t data_offset = 10 + IntegerAt<std::uint16_t>(bytes, 8);
  if (bytes.substr(0, 8) != kMagic || data_offset > bytes.size()) {
    return absl::DataLossError("not a version 1.0 .npy array");
  }
  const std::string header(bytes.substr(10, data_offset - 10));
  const std::size_t descr = header.find("'descr': '");
  const std::size_t shape = header.find("'shape': (");
  if (descr == std::string::npos || shape == std::string::npos ||
      header.find("'fortran_order': False") == std::string::npos) {
    return absl::DataLossError(absl::StrCat("unexpected .npy header ", header));
  }
  NpyArray array;
  array.descr = header.substr(descr + 10, header.find('\'', descr + 10) - descr - 10);
  std::istringstream dimensions(header.substr(shape + 10, header.find(')', shape) - shape - 10));
  for (std::int64_t dimension = 0; dimensions >> dimension; dimensions.ignore(1)) {
    array.shape.push_back(dimension);
  }
  array.bytes = bytes.substr(data_offset);
  return array;
}

}  // namespace

absl::StatusOr<NpyArray> ReadNpy(const std::string& path) {
  const absl::StatusOr<std::string> bytes = ReadFile(path);
  if (!bytes.ok()) return bytes.status();
  return ParseNpy(*bytes);
}

// A zip archive starts with its entries, each a local header of 30 bytes, name, extra field, data.
absl::StatusOr<std::map<std::string, NpyArray>> ReadNpz(const std::string& path) {
  constexpr std::uint32_t kLocalHeader = 0x04034b50;
  const absl::StatusOr<std::string> file = ReadFile(path);
  if (!file.ok()) return file.status();
  const std::string_view bytes = *file;
  std::map<std::string, NpyArray> arrays;
  std::size_t at = 0;
  while (IntegerAt<std::uint32_t>(bytes, at) == kLocalHeader) {
    const auto method = IntegerAt<std::uint16_t>(bytes, at + 8);
    const auto size = IntegerAt<std::uint32_t>(bytes, at + 18);
    const auto name_size = IntegerAt<std::uint16_t>(bytes, at + 26);
    const std::size_t data = at + 30 + name_size + IntegerAt<std::uint16_t>(bytes, at + 28);
    if (method != 0 || data + size > bytes.size()) {
      return absl::DataLossError(absl::StrCat(path, ": deflated or cut short"));
    }
    const std::string_view name = bytes.substr(at + 30, name_size);
    absl::StatusOr<NpyArray> array = ParseNpy(bytes.substr(data, size));
    if (!array.ok()) return array.status();
    arrays.emplace(name.substr(0, name.rfind(".npy")), *std::move(array));
    at = data + size;
  }
  return arrays;
}

}  // namespace sage::golden
