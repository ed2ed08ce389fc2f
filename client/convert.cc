#include "client/convert.h"

#include <cmath>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/float16.h"

namespace sage {
namespace {

float Load(const std::byte* source) {
  float x;
  std::memcpy(&x, source, sizeof(x));
  return x;
}

void Store(std::uint16_t bits, std::byte* target) { std::memcpy(target, &bits, sizeof(bits)); }

}  // namespace

absl::Status ConvertFromFloat32(const void* source, std::int64_t count, DType dtype, void* target) {
  const auto* in = static_cast<const std::byte*>(source);
  auto* out = static_cast<std::byte*>(target);
  constexpr std::uint16_t kInfinity = 0x7c00;
  if (dtype == DType::kBFloat16) {
    for (std::int64_t i = 0; i < count; ++i) Store(ToBFloat16(Load(in + 4 * i)).bits, out + 2 * i);
    return absl::OkStatus();
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const float x = Load(in + 4 * i);
    const std::uint16_t bits = ToFloat16(x).bits;
    if ((bits & 0x7fff) == kInfinity && std::isfinite(x)) {
      return absl::InvalidArgumentError(
          absl::StrCat("fp32 value ", x,
                       " is outside fp16's range (largest 65504); scale the tensor or use bf16"));
    }
    Store(bits, out + 2 * i);
  }
  return absl::OkStatus();
}

}  // namespace sage
