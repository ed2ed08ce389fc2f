// Reads the golden files: .npy arrays, alone or many in an .npz that is stored, not deflated.
//
// Limitations: format version 1, little endian, C order; no zip64.
#ifndef SAGE_TESTS_GOLDEN_NPY_READER_H_
#define SAGE_TESTS_GOLDEN_NPY_READER_H_

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace sage::golden {

struct NpyArray {
  std::string descr;  // numpy's type string, for instance "<f4"
  std::vector<std::int64_t> shape;
  std::string bytes;

  template <typename T>
  std::vector<T> As() const {
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
  }
};

// NOT_FOUND where there is no such file, DATA_LOSS where it is not what it should be.
absl::StatusOr<NpyArray> ReadNpy(const std::string& path);
// By name, without the ".npy" that numpy appends.
absl::StatusOr<std::map<std::string, NpyArray>> ReadNpz(const std::string& path);

}  // namespace sage::golden

#endif  // SAGE_TESTS_GOLDEN_NPY_READER_H_
