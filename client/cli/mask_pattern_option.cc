#include "client/cli/mask_pattern_option.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace sage::cli {

absl::StatusOr<MaskPattern> ParseMaskPattern(const std::string& text) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  std::vector<std::int64_t> numbers;
  for (const auto& piece : absl::StrSplit(parts.second, ',')) {
    std::int64_t number;
    if (!absl::SimpleAtoi(piece, &number)) {
      numbers.clear();
      break;
    }
    numbers.push_back(number);
  }
  const std::string name = absl::StrReplaceAll(parts.first, {{"-", "_"}});
  if (name == "sliding_window" && numbers.size() == 2) {
    return SlidingWindowPattern{.left_blocks = numbers[0], .right_blocks = numbers[1]};
  }
  if (name == "sink_window" && numbers.size() == 2) {
    return SinkWindowPattern{.sink_blocks = numbers[0], .left_blocks = numbers[1]};
  }
  if (name == "strided" && numbers.size() == 3) {
    return StridedPattern{
        .stride_blocks = numbers[0], .phase_blocks = numbers[1], .local_blocks = numbers[2]};
  }
  if (name == "band" && numbers.size() == 2) {
    return BandPattern{.lower_blocks = numbers[0], .upper_blocks = numbers[1]};
  }
  if (name == "documents" && !numbers.empty()) return DocumentPattern{.lengths = numbers};
  return absl::InvalidArgumentError(
      absl::StrCat("--pattern '", text, "' is not one of  ", kMaskPatternForms));
}

}  // namespace sage::cli
