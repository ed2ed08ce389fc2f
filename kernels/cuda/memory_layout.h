// Several arrays in one allocation.
#ifndef SAGE_KERNELS_CUDA_MEMORY_LAYOUT_H_
#define SAGE_KERNELS_CUDA_MEMORY_LAYOUT_H_

#include <cstddef>
#include <cstdint>

namespace sage::cuda {

// Hands out offsets of arrays that follow each other, each aligned to 256 bytes.
class MemoryLayout {
 public:
  // Offset of an array of `count` elements.
  template <typename T>
  std::size_t Add(std::int64_t count) {
    constexpr std::size_t kAlignment = 256;
    const std::size_t offset = (bytes_ + kAlignment - 1) / kAlignment * kAlignment;
    bytes_ = offset + static_cast<std::size_t>(count) * sizeof(T);
    return offset;
  }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_ = 0;
};

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_MEMORY_LAYOUT_H_
