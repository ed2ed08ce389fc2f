// What the CPU kernels quantise against the scalar form of `sage1` and against e4m3 by brute force,
// bit for bit.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/cpu/attend_tile.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/prepared_kv.h"
#include "kernels/float16.h"
#include "kernels/quantize.h"
#include "tests/unit/cpu_each_target.h"

namespace sage {
namespace {

constexpr std::int64_t kHeads = 2;
constexpr std::int64_t kLengths[] = {1, 63, 64, 65, 127, 128, 129, 1000};
constexpr std::int64_t kHeadDims[] = {8, 24, 64, 72, 128};
constexpr DType kTypes[] = {DType::kFloat16, DType::kBFloat16};

std::uint16_t Bits(DType dtype, float x) {
  return dtype == DType::kFloat16 ? ToFloat16(x).bits : ToBFloat16(x).bits;
}
float Value(DType dtype, std::uint16_t bits) {
  return dtype == DType::kFloat16 ? ToFloat(Float16{bits}) : ToFloat(BFloat16{bits});
}

// N(0, 1) per element; some 64-token blocks are zero, tiny, or hold an infinity or a NaN.
std::vector<std::uint16_t> RandomTokens(DType dtype, std::int64_t rows, std::int64_t head_dim,
                                        std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> tokens(rows * head_dim);
  for (std::int64_t i = 0; i < rows * head_dim; ++i) {
    const std::int64_t block = i / head_dim / kBlockN;
    const float factor = block % 7 == 3 ? 0.0F : (block % 7 == 4 ? 1e-7F : 1.0F);
    tokens[i] = Bits(dtype, normal(random) * factor + 0.5F * static_cast<float>(i % 3));
    if (block % 7 == 3) tokens[i] = 0;
  }
  const auto poison = [&](std::int64_t row, float x) {
    if (row < rows) tokens[row * head_dim + random() % head_dim] = Bits(dtype, x);
  };
  poison(70, std::numeric_limits<float>::quiet_NaN());
  poison(130, std::numeric_limits<float>::infinity());
  poison(700, -std::numeric_limits<float>::infinity());
  return tokens;
}

void ExpectSameBits(float got, float want) {
  if (std::isnan(want)) {
    EXPECT_TRUE(std::isnan(got));
  } else {
    EXPECT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(want));
  }
}

// K and V of kHeads heads prepared by a backend of its own.
struct Prepared {
  Prepared(Precision precision, DType dtype, std::int64_t rows, std::int64_t head_dim) {
    tokens = RandomTokens(dtype, kHeads * rows, head_dim, rows * 1000 + head_dim);
    values = RandomTokens(dtype, kHeads * rows, head_dim, rows * 1000 + head_dim + 1);
    task = {.num_heads = kHeads,
            .length_k = rows,
            .head_dim = head_dim,
            .dtype = dtype,
            .precision = precision,
            .k = {tokens.data(), rows * head_dim, head_dim},
            .v = {values.data(), rows * head_dim, head_dim}};
    backend = *CreateCpuBackend({.num_threads = 2});
    memory = *backend->Allocate(MemoryKind::kDevice, backend->PreparedKvBytes(task));
    std::memset(memory.data(), 0xff, memory.size());
    const std::unique_ptr<Stream> stream = *backend->CreateStream();
    EXPECT_TRUE(stream->PrepareKv(task, memory.data()).ok());
    EXPECT_TRUE(stream->Synchronize().ok());
  }

  PreparedHead<std::byte> Head(std::int64_t head) const {
    return PreparedKvLayout(task).Head(memory.data(), head);
  }

  std::vector<std::uint16_t> tokens, values;
  KvTask task;
  std::unique_ptr<Backend> backend;
  Memory memory;
};

template <typename Body>
void ForEachShape(const Body& body) {
  for (const DType dtype : kTypes) {
    for (const std::int64_t rows : kLengths) {
      for (const std::int64_t head_dim : kHeadDims) {
        SCOPED_TRACE(::testing::Message()
                     << Name(dtype) << " rows " << rows << " head_dim " << head_dim);
        body(dtype, rows, head_dim);
      }
    }
  }
}

TEST(CpuQuantizationTest, KeysHaveTheBitsOfSage1) {
  ForEachCpuTarget([] {
    ForEachShape([](DType dtype, std::int64_t rows, std::int64_t head_dim) {
      const Prepared prepared(Precision::kQkInt8PvFp16, dtype, rows, head_dim);
      const std::int64_t blocks = CeilDiv(rows, kBlockN);
      for (std::int64_t h = 0; h < kHeads; ++h) {
        const HeadView view{prepared.tokens.data() + h * rows * head_dim, dtype, rows, head_dim,
                            head_dim};
        std::vector<float> c(head_dim);
        std::vector<std::int8_t> k8(rows * head_dim);
        std::vector<float> scales(blocks);
        ComputeSmoothing(view, c.data());
        QuantizeKeys(view, c.data(), k8.data(), scales.data());
        const PreparedHead<std::byte> head = prepared.Head(h);
        for (std::int64_t i = 0; i < head_dim; ++i) ExpectSameBits(head.smoothing[i], c[i]);
        for (std::int64_t b = 0; b < blocks; ++b) ExpectSameBits(head.k_scales[b], scales[b]);
        std::int64_t wrong = 0;
        for (std::int64_t n = 0; n < blocks * kBlockN; ++n) {
          for (std::int64_t i = 0; i < head_dim; ++i) {
            const std::uint8_t* const block = head.k8 + n / kBlockN * kBlockN * head_dim;
            const int got = block[i / 4 * 4 * kBlockN + n % kBlockN * 4 + i % 4] - kKeyBias;
            wrong += got != (n < rows ? k8[n * head_dim + i] : 0);
          }
        }
        EXPECT_EQ(wrong, 0);
      }
    });
  });
}

TEST(CpuQuantizationTest, QueriesHaveTheBitsOfSage1) {
  ForEachCpuTarget([] {
    ForEachShape([](DType dtype, std::int64_t rows, std::int64_t head_dim) {
      const std::vector<std::uint16_t> tokens = RandomTokens(dtype, rows, head_dim, rows);
      const std::int64_t padded = PaddedHeadDim(head_dim);
      std::vector<float> x(rows * padded, 0.0F);
      for (std::int64_t i = 0; i < rows * head_dim; ++i) {
        x[i / head_dim * padded + i % head_dim] = Value(dtype, tokens[i]);
      }
      std::vector<std::int8_t> got(rows * padded, 0x55);
      std::vector<float> got_scales(rows);
      std::vector<std::int32_t> start(rows);
      QuantizeQueryRows(x.data(), rows, padded, got.data(), got_scales.data(), start.data());

      std::vector<std::int8_t> want(rows * head_dim);
      std::vector<float> scales(rows);
      QuantizeQueries({tokens.data(), dtype, rows, head_dim, head_dim}, want.data(), scales.data());
      std::int64_t wrong = 0;
      for (std::int64_t row = 0; row < rows; ++row) {
        ExpectSameBits(got_scales[row], scales[row]);
        int sum = 0;
        for (std::int64_t i = 0; i < padded; ++i) {
          const int expected = i < head_dim ? want[row * head_dim + i] : 0;
          wrong += got[row * padded + i] != expected;
          sum += expected;
        }
        EXPECT_EQ(start[row], -kKeyBias * sum);
      }
      EXPECT_EQ(wrong, 0);
    });
  });
}

float E4m3Value(int code) {
  const int exponent = (code >> 3) & 15;
  const int fraction = code & 7;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(fraction), -9)
                              : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

// The code nearest to `x`, ties to the even one, saturated.
int NearestE4m3(float x) {
  int best = 0;
  for (int code = 0; code < 0x7f; ++code) {
    const double distance = std::abs(std::abs(double{x}) - E4m3Value(code));
    const double best_distance = std::abs(std::abs(double{x}) - E4m3Value(best));
    if (distance < best_distance || (distance == best_distance && code % 2 == 0)) best = code;
  }
  return std::signbit(x) ? best | 0x80 : best;
}

TEST(CpuQuantizationTest, ValuesAreCentredAndRoundedToTheNearestE4m3) {
  ForEachCpuTarget([] {
    for (const DType dtype : kTypes) {
      constexpr std::int64_t kRows = 200;
      constexpr std::int64_t kHeadDim = 24;
      const Prepared prepared(Precision::kQkInt8PvFp8, dtype, kRows, kHeadDim);
      const std::int64_t padded = PaddedHeadDim(kHeadDim);
      const PreparedHead<std::byte> head = prepared.Head(0);
      for (std::int64_t i = 0; i < kHeadDim; ++i) {
        double sum = 0;
        float largest = 0;
        for (std::int64_t n = 0; n < kRows; ++n) {
          const float v = Value(dtype, prepared.values[n * kHeadDim + i]);
          if (std::isfinite(v)) sum += v;
          if (std::isfinite(v)) largest = std::max(largest, std::abs(v - head.v_means[i]));
        }
        EXPECT_NEAR(head.v_means[i], sum / kRows, 1e-5);  // fp32 sum of 200 values near 1
        ExpectSameBits(head.v_scales[i], largest / kE4m3Max);
        const float inverse = 1.0F / head.v_scales[i];
        for (std::int64_t n = 0; n < kRows; ++n) {
          const float v = Value(dtype, prepared.values[n * kHeadDim + i]);
          const int want =
              std::isfinite(v) ? NearestE4m3((v - head.v_means[i]) * inverse) : int{kE4m3NaN};
          ASSERT_EQ(head.v8[n * padded + i], want) << "token " << n << " channel " << i;
        }
      }
      for (std::int64_t b = 0; b < CeilDiv(kRows, kBlockN); ++b) {
        EXPECT_EQ(head.v_nonfinite[b], b == 1 || b == 2 ? 1 : 0);
      }
    }
  });
}

}  // namespace
}  // namespace sage
