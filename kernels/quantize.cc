#include "kernels/quantize.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <limits>

#include "kernels/float16.h"

namespace sage {
namespace {

static_assert(FLT_EVAL_METHOD == 0, "sage1 needs every fp32 operation rounded to fp32");

// Groups whose largest magnitude is below this count as zero.
constexpr float kZeroThreshold = 0x1p-100F;

// Calls `body(rows)` with `view.data` as a pointer to its element type.
template <typename Body>
void WithElements(const HeadView& view, const Body& body) {
  switch (view.dtype) {
    case DType::kFloat16:
      return body(static_cast<const Float16*>(view.data));
    case DType::kBFloat16:
      return body(static_cast<const BFloat16*>(view.data));
    case DType::kFloat32:
      return body(static_cast<const float*>(view.data));
  }
}

constexpr std::array<float, kMaxHeadDim> kZeros{};

// Quantises rows [begin, end), at most a block, as one group and returns its scale. In plain loops
// over the channels, which compilers make vectors of: integers for the maximum, since that of
// floats depends on their order where there is a NaN.
template <typename Element>
float QuantizeGroup(const Element* data, const HeadView& x, const float* c, std::int64_t begin,
                    std::int64_t end, std::int8_t* x8) {
  constexpr std::uint32_t kInfinityBits = 0x7f800000;
  float centred[kBlockN * kMaxHeadDim];  // [rows, head_dim]
  std::uint32_t largest = 0;             // bits of m: ordered as magnitudes are
  for (std::int64_t row = begin; row < end; ++row) {
    const Element* const from = data + row * x.row_stride;
    float* const to = centred + (row - begin) * x.head_dim;
    for (std::int64_t d = 0; d < x.head_dim; ++d) {
      to[d] = ToFloat(from[d]) - c[d];
      largest = std::max(largest, std::bit_cast<std::uint32_t>(to[d]) & 0x7fffffffU);
    }
  }
  const std::int64_t count = (end - begin) * x.head_dim;
  std::int8_t* const to = x8 + begin * x.head_dim;
  const auto m = std::bit_cast<float>(largest);
  const bool finite = largest < kInfinityBits;
  if (!finite || m < kZeroThreshold) {
    std::fill(to, to + count, std::int8_t{0});
    return finite ? 0.0F : std::numeric_limits<float>::quiet_NaN();
  }
  const float r = 127.0F / m;
  // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
  constexpr float kMagic = 12582912.0F;
  for (std::int64_t i = 0; i < count; ++i) {
    const float rounded = centred[i] * r + kMagic;
    const std::int32_t integer =
        std::bit_cast<std::int32_t>(rounded) - std::bit_cast<std::int32_t>(kMagic);
    to[i] = static_cast<std::int8_t>(std::clamp(integer, -127, 127));
  }
  return m / 127.0F;
}

}  // namespace

void ComputeSmoothing(const HeadView& k, float* c) {
  std::array<float, kMaxHeadDim> sum{};
  WithElements(k, [&](const auto* data) {
    for (std::int64_t begin = 0; begin < k.rows; begin += kBlockN) {
      std::array<float, kMaxHeadDim> block_sum{};
      const std::int64_t end = std::min(begin + kBlockN, k.rows);
      for (std::int64_t row = begin; row < end; ++row) {
        for (std::int64_t d = 0; d < k.head_dim; ++d) {
          const float value = ToFloat(data[row * k.row_stride + d]);
          block_sum[d] += std::isfinite(value) ? value : 0.0F;
        }
      }
      for (std::int64_t d = 0; d < k.head_dim; ++d) sum[d] += block_sum[d];
    }
  });
  const float inv = k.rows == 0 ? 0.0F : 1.0F / static_cast<float>(k.rows);
  for (std::int64_t d = 0; d < k.head_dim; ++d) c[d] = sum[d] * inv;
}

void QuantizeKeys(const HeadView& k, const float* c, std::int8_t* k8, float* scales) {
  WithElements(k, [&](const auto* data) {
    for (std::int64_t begin = 0; begin < k.rows; begin += kBlockN) {
      const std::int64_t end = std::min(begin + kBlockN, k.rows);
      scales[begin / kBlockN] = QuantizeGroup(data, k, c, begin, end, k8);
    }
  });
}

void QuantizeQueries(const HeadView& q, std::int8_t* q8, float* scales) {
  WithElements(q, [&](const auto* data) {
    for (std::int64_t row = 0; row < q.rows; ++row) {
      scales[row] = QuantizeGroup(data, q, kZeros.data(), row, row + 1, q8);
    }
  });
}

void QueryDotSmoothing(const HeadView& q, const float* c, float* dot) {
  constexpr std::int64_t kRun = 8;
  WithElements(q, [&](const auto* data) {
    for (std::int64_t row = 0; row < q.rows; ++row) {
      std::array<float, kMaxHeadDim / kRun> sums{};
      for (std::int64_t d = 0; d < q.head_dim; ++d) {
        const float product = ToFloat(data[row * q.row_stride + d]) * c[d];
        sums[d / kRun] += product;
      }
      for (std::size_t count = sums.size() / 2; count > 0; count /= 2) {
        for (std::size_t i = 0; i < count; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
      }
      dot[row] = sums[0];
    }
  });
}

}  // namespace sage
