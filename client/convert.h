// fp32 tensors as the wire wants them.
#ifndef SAGE_CLIENT_CONVERT_H_
#define SAGE_CLIENT_CONVERT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention.h"

namespace sage {

// Converts `count` fp32 elements at `source` (any alignment) to kFloat16 or kBFloat16 at `target`,
// rounded to nearest, ties to even; `target` may be `source`. Infinities and NaN pass.
// INVALID_ARGUMENT, naming the value, for a finite one that rounds past fp16's largest, 65504. For
// bf16 nothing is refused: its range is that of fp32 but for the last half unit.
absl::Status ConvertFromFloat32(const void* source, std::int64_t count, DType dtype, void* target);

}  // namespace sage

#endif  // SAGE_CLIENT_CONVERT_H_
