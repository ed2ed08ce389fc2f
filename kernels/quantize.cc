#include "kernels/quantize.h"

#include <algorithm>
#include <array>
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

// Quantises rows [begin, end) as one group and returns its scale. `c` is nullptr for 0.
template <typename Element>
float QuantizeGroup(const Element* data, const HeadView& x, const float* c, std::int64_t begin,
                    std::int64_t end, std::int8_t* x8) {
  const auto centred = [&](std::int64_t row, std::int64_t d) {
    return ToFloat(data[row * x.row_stride + d]) - (c == nullptr ? 0.0F : c[d]);
  };
  float m = 0;
  bool finite = true;
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t d = 0; d < x.head_dim; ++d) {
      const float value = centred(row, d);
      finite = finite && std::isfinite(value);
      m = std::max(m, std::abs(value));
    }
  }
  if (!finite || m < kZeroThreshold) {
    std::fill(x8 + begin * x.head_dim, x8 + end * x.head_dim, std::int8_t{0});
    return finite ? 0.0F : std::numeric_limits<float>::quiet_NaN();
  }
  const float r = 127.0F / m;
  for (std::int64_t row = begin; row < end; ++row) {
    for (std::int64_t d = 0; d < x.head_dim; ++d) {
      const float rounded = std::rint(centred(row, d) * r);
      x8[row * x.head_dim + d] = static_cast<std::int8_t>(std::clamp(rounded, -127.0F, 127.0F));
    }
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
      scales[row] = QuantizeGroup(data, q, nullptr, row, row + 1, q8);
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
