// Small numbers and stretches taken from a fuzzer's bytes, zeros once they are used up.
#ifndef SAGE_TESTS_FUZZ_BYTE_SOURCE_H_
#define SAGE_TESTS_FUZZ_BYTE_SOURCE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

namespace sage::fuzz {

class ByteSource {
 public:
  explicit ByteSource(Input input) : left_(input) {}

  bool empty() const { return left_.empty(); }

  std::uint8_t Byte() {
    if (left_.empty()) return 0;
    const std::uint8_t byte = left_.front();
    left_ = left_.subspan(1);
    return byte;
  }

  std::uint32_t Word() {
    std::uint32_t word = 0;
    for (int i = 0; i < 4; ++i) word = word << 8 | Byte();
    return word;
  }

  // From `first` to `last`, 255 apart at most.
  int Range(int first, int last) { return first + Byte() % (last - first + 1); }

  Input Bytes(std::size_t count) {
    const Input taken = left_.first(std::min(count, left_.size()));
    left_ = left_.subspan(taken.size());
    return taken;
  }

  Input Rest() { return Bytes(left_.size()); }

 private:
  Input left_;
};

}  // namespace sage::fuzz

#endif  // SAGE_TESTS_FUZZ_BYTE_SOURCE_H_
