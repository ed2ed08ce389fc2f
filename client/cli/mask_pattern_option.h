// Mask patterns as text: NAME:NUMBER,NUMBER...
#ifndef SAGE_CLIENT_CLI_MASK_PATTERN_OPTION_H_
#define SAGE_CLIENT_CLI_MASK_PATTERN_OPTION_H_

#include <string>

#include "absl/status/statusor.h"
#include "kernels/block_mask.h"

namespace sage::cli {

// What ParseMaskPattern() takes, for help and error messages; block_mask.h has the formulas.
inline constexpr char kMaskPatternForms[] =
    "sliding_window:LEFT,RIGHT  sink_window:SINK,LEFT  strided:STRIDE,PHASE,LOCAL  "
    "band:LOWER,UPPER  documents:LENGTH,LENGTH,...  (in blocks; lengths in tokens)";

// INVALID_ARGUMENT naming the forms. The numbers' ranges are checked with the problem, later.
absl::StatusOr<MaskPattern> ParseMaskPattern(const std::string& text);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_MASK_PATTERN_OPTION_H_
