// The content of a file, in memory, for parsers of mapped files.
#ifndef SAGE_TESTS_SUPPORT_ALIGNED_CONTENT_H_
#define SAGE_TESTS_SUPPORT_ALIGNED_CONTENT_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

namespace sage::testing {

// Holds a copy of `text`, aligned to 8 bytes as the beginning of a mapping is.
class AlignedContent {
 public:
  explicit AlignedContent(const std::string& text)
      : words_((text.size() + 7) / 8), size_(text.size()) {
    if (!text.empty()) std::memcpy(words_.data(), text.data(), text.size());
  }
  std::span<const std::byte> bytes() const {
    return std::as_bytes(std::span(words_)).subspan(0, size_);
  }

 private:
  std::vector<std::uint64_t> words_;
  std::size_t size_;
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_ALIGNED_CONTENT_H_
