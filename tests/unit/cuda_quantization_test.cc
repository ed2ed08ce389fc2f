// What the device quantises against the scalar form of `sage1`, bit for bit.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "kernels/backend.h"
#include "kernels/cuda/prepared_kv.h"
#include "kernels/float16.h"
#include "kernels/quantize.h"
#include "tests/support/cuda_device.h"

namespace sage {
namespace {

constexpr std::int64_t kHeads = 2;

// Where channel `d` of a key lies in its row: blocks are tiles with the tensor cores' 64-byte or
// 128-byte swizzle, by which bits 7 to 9 of a byte's offset are added to bits 4 to 6, modulo 2
// each.
std::int64_t SwizzledChannel(std::int64_t row_bytes, std::int64_t row, std::int64_t d) {
  const std::int64_t offset = row % kBlockN * row_bytes + d;
  const std::int64_t twist = offset >> 7 & (row_bytes == 64 ? 3 : 7);
  return (offset ^ twist << 4) % row_bytes;
}

std::uint16_t Bits(DType dtype, float x) {
  return dtype == DType::kFloat16 ? ToFloat16(x).bits : ToBFloat16(x).bits;
}

// N(0, 1) with an offset a channel; some 64-token blocks are zero, tiny, or hold an infinity or a
// NaN; bf16 has one of huge values.
std::vector<std::uint16_t> RandomTokens(DType dtype, std::int64_t rows, std::int64_t head_dim,
                                        std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> tokens(rows * head_dim);
  for (std::int64_t i = 0; i < rows * head_dim; ++i) {
    const std::int64_t block = i / head_dim / kBlockN % 9;
    float x = normal(random) + 0.5F * static_cast<float>(i % head_dim % 3);
    if (block == 3) x = 0.0F;
    if (block == 4) x *= 1e-7F;
    if (block == 5 && dtype == DType::kBFloat16) x *= 1e37F;
    tokens[i] = Bits(dtype, x);
  }
  const auto poison = [&](std::int64_t row, float x) {
    if (row < rows) tokens[row * head_dim + random() % head_dim] = Bits(dtype, x);
  };
  poison(70, std::numeric_limits<float>::quiet_NaN());
  poison(130, std::numeric_limits<float>::infinity());
  poison(700, -std::numeric_limits<float>::infinity());
  return tokens;
}

class CudaQuantizationTest : public testing::CudaFixture<> {
 protected:
  void Check(DType dtype, std::int64_t rows, std::int64_t head_dim, bool interleaved) {
    SCOPED_TRACE(::testing::Message() << "rows " << rows << ", head_dim " << head_dim);
    const std::vector<std::uint16_t> tokens =
        RandomTokens(dtype, kHeads * rows, head_dim, rows * 1000 + head_dim);
    const std::int64_t head_stride = interleaved ? head_dim : rows * head_dim;
    const std::int64_t row_stride = interleaved ? kHeads * head_dim : head_dim;
    const std::unique_ptr<Stream> stream = *backend_->CreateStream();
    const Memory k = *backend_->Allocate(MemoryKind::kDevice, tokens.size() * 2);
    ASSERT_TRUE(stream->CopyToDevice(k.data(), tokens.data(), tokens.size() * 2).ok());
    const KvTask task = {.num_heads = kHeads,
                         .length_k = rows,
                         .head_dim = head_dim,
                         .dtype = dtype,
                         .precision = Precision::kQkInt8PvFp16,
                         .k = {k.data(), head_stride, row_stride},
                         .v = {k.data(), head_stride, row_stride}};
    std::vector<std::byte> got(backend_->PreparedKvBytes(task), std::byte{0xff});
    const Memory prepared = *backend_->Allocate(MemoryKind::kDevice, got.size());
    ASSERT_TRUE(stream->CopyToDevice(prepared.data(), got.data(), got.size()).ok());
    ASSERT_TRUE(stream->PrepareKv(task, prepared.data()).ok());
    ASSERT_TRUE(stream->CopyToHost(got.data(), prepared.data(), got.size()).ok());
    ASSERT_TRUE(stream->Synchronize().ok());

    const cuda::PreparedKvLayout layout(task);
    const std::int64_t padded = cuda::PaddedHeadDim(head_dim);
    const std::int64_t blocks = CeilDiv(rows, kBlockN);
    for (std::int64_t head = 0; head < kHeads; ++head) {
      const HeadView view = {.data = tokens.data() + head * head_stride,
                             .dtype = dtype,
                             .rows = rows,
                             .row_stride = row_stride,
                             .head_dim = head_dim};
      std::vector<float> c(padded, 0.0F);
      ComputeSmoothing(view, c.data());
      std::vector<std::int8_t> k8(rows * head_dim);
      std::vector<float> scales(blocks);
      QuantizeKeys(view, c.data(), k8.data(), scales.data());

      const auto* const got_c =
          reinterpret_cast<const float*>(got.data() + layout.smoothing) + head * padded;
      ASSERT_EQ(std::memcmp(got_c, c.data(), padded * sizeof(float)), 0);
      const auto* const got_scales =
          reinterpret_cast<const float*>(got.data() + layout.scales) + head * blocks;
      for (std::int64_t n = 0; n < blocks; ++n) {
        if (std::isnan(scales[n])) {
          ASSERT_TRUE(std::isnan(got_scales[n])) << "block " << n;
        } else {
          ASSERT_EQ(std::bit_cast<std::uint32_t>(got_scales[n]),
                    std::bit_cast<std::uint32_t>(scales[n]))
              << "block " << n;
        }
      }
      const auto* const got_k8 = reinterpret_cast<const std::int8_t*>(got.data() + layout.k8) +
                                 head * blocks * kBlockN * padded;
      for (std::int64_t row = 0; row < blocks * kBlockN; ++row) {
        for (std::int64_t d = 0; d < padded; ++d) {
          const int want = row < rows && d < head_dim ? k8[row * head_dim + d] : 0;
          ASSERT_EQ(got_k8[row * padded + SwizzledChannel(padded, row, d)], want)
              << "row " << row << ", channel " << d;
        }
      }
    }
  }
};

TEST_F(CudaQuantizationTest, KeysHaveTheBitsOfTheSpec) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (const std::int64_t rows : {1, 63, 64, 65, 127, 128, 129, 1000, 5000}) {
      for (const std::int64_t head_dim : {8, 24, 64, 72, 128}) {
        Check(dtype, rows, head_dim, /*interleaved=*/rows % 2 == 0);
      }
    }
  }
}

}  // namespace
}  // namespace sage
