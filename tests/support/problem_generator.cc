#include "tests/support/problem_generator.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>

#include "kernels/float16.h"

namespace sage::testing {
namespace {

// [batch, heads, seqlen, head_dim] of `layout`, as an index.
std::int64_t ElementIndex(Layout layout, std::int64_t heads, std::int64_t seqlen,
                          std::int64_t head_dim, std::int64_t b, std::int64_t head,
                          std::int64_t token) {
  return (layout == Layout::kHnd ? (b * heads + head) * seqlen + token
                                 : (b * seqlen + token) * heads + head) *
         head_dim;
}

void Store(DType dtype, float value, std::byte* element) {
  if (dtype == DType::kFloat16) {
    const Float16 half = ToFloat16(value);
    std::memcpy(element, &half, sizeof half);
  } else if (dtype == DType::kBFloat16) {
    const BFloat16 half = ToBFloat16(value);
    std::memcpy(element, &half, sizeof half);
  } else {
    std::memcpy(element, &value, sizeof value);
  }
}

double Load(DType dtype, const std::byte* element) {
  std::uint16_t half = 0;
  float value = 0;
  if (dtype == DType::kFloat32) {
    std::memcpy(&value, element, sizeof value);
    return value;
  }
  std::memcpy(&half, element, sizeof half);
  return dtype == DType::kFloat16 ? ToFloat(Float16{half}) : ToFloat(BFloat16{half});
}

using Random = std::mt19937_64;

// A tensor in which element e of channel d is (N(0, 1) + 8 N(0, 1) of the channel, where
// `channel_offset`) * factor(d).
template <typename Factor>
std::vector<std::byte> MakeTensor(const AttentionProblem& problem, std::int64_t heads,
                                  std::int64_t seqlen, bool channel_offset, const Factor& factor,
                                  Random* random) {
  std::normal_distribution<float> normal;
  const std::size_t element_bytes = SizeOf(problem.dtype);
  std::vector<std::byte> tensor(problem.batch * heads * seqlen * problem.head_dim * element_bytes);
  std::vector<float> offsets(problem.head_dim, 0.0F);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t h = 0; h < heads; ++h) {
      if (channel_offset) {
        for (float& offset : offsets) offset = 8 * normal(*random);
      }
      for (std::int64_t s = 0; s < seqlen; ++s) {
        std::byte* row = tensor.data() + element_bytes * ElementIndex(problem.layout, heads, seqlen,
                                                                      problem.head_dim, b, h, s);
        for (std::int64_t d = 0; d < problem.head_dim; ++d) {
          Store(problem.dtype, (normal(*random) + offsets[d]) * factor(d), row + d * element_bytes);
        }
      }
    }
  }
  return tensor;
}

// Calls body(row index, got row, want row) for every query row, batch and head outermost.
template <typename Body>
void ForEachRow(const AttentionProblem& problem, const PoisonedOutput& output,
                const ReferenceResult& reference, const Body& body) {
  const std::size_t element_bytes = SizeOf(problem.output_dtype);
  std::int64_t row = 0;
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    for (std::int64_t h = 0; h < problem.num_heads_q; ++h) {
      for (std::int64_t s = 0; s < problem.seqlen_q; ++s, ++row) {
        const std::int64_t index = ElementIndex(problem.layout, problem.num_heads_q,
                                                problem.seqlen_q, problem.head_dim, b, h, s);
        body(row, output.out.data() + element_bytes * index,
             reference.out.data() + row * problem.head_dim);
      }
    }
  }
}

bool IsEmptyRow(const ReferenceResult& reference, std::int64_t row) {
  return reference.lse[row] == -std::numeric_limits<double>::infinity();
}

}  // namespace

ProblemData MakeData(const AttentionProblem& problem, DataKind kind, std::uint64_t seed) {
  Random random(seed);
  const bool outliers = kind == DataKind::kOutliers;
  const auto plain = [](std::int64_t) { return 1.0F; };
  const auto q_factor = [outliers](std::int64_t d) {
    return !outliers ? 1.0F : (d < 2 ? 6.0F : 0.5F);
  };
  const auto k_factor = [outliers](std::int64_t d) { return outliers && d < 2 ? 12.0F : 1.0F; };
  ProblemData data;
  data.q = MakeTensor(problem, problem.num_heads_q, problem.seqlen_q, false, q_factor, &random);
  data.k = MakeTensor(problem, problem.num_heads_kv, problem.seqlen_k, kind == DataKind::kKeyOffset,
                      k_factor, &random);
  data.v = MakeTensor(problem, problem.num_heads_kv, problem.seqlen_k,
                      kind == DataKind::kValueOffset, plain, &random);
  return data;
}

std::vector<std::uint8_t> RandomDenseMask(const AttentionProblem& problem, std::int64_t mask_batch,
                                          std::int64_t mask_heads, double density,
                                          std::uint64_t seed) {
  Random random(seed);
  std::bernoulli_distribution listed(density);
  std::vector<std::uint8_t> dense(mask_batch * mask_heads * problem.tiles_q() * problem.blocks_k());
  for (std::uint8_t& block : dense) block = listed(random) ? 1 : 0;
  return dense;
}

void ClearMaskRows(const AttentionProblem& problem, std::int64_t period,
                   std::vector<std::uint8_t>* dense) {
  const std::int64_t row_size = problem.blocks_k();
  const auto size = static_cast<std::int64_t>(dense->size());
  for (std::int64_t begin = 0; begin < size; begin += period * row_size) {
    std::fill_n(dense->begin() + begin, row_size, std::uint8_t{0});
  }
}

PoisonedOutput::PoisonedOutput(const AttentionProblem& problem)
    : out(problem.q_elements() * SizeOf(problem.output_dtype), std::byte{0xff}),
      lse(problem.lse_elements(), std::numeric_limits<float>::quiet_NaN()) {}

ReferenceResult Reference(const AttentionProblem& problem, const ProblemData& data,
                          const std::vector<std::uint8_t>& mask, std::int64_t mask_batch,
                          std::int64_t mask_heads) {
  return ReferenceAttention(problem, {.q = data.q.data(),
                                      .k = data.k.data(),
                                      .v = data.v.data(),
                                      .mask = mask.empty() ? nullptr : mask.data(),
                                      .mask_batch = mask_batch,
                                      .mask_heads = mask_heads});
}

Comparison Compare(const AttentionProblem& problem, const PoisonedOutput& output,
                   const ReferenceResult& reference) {
  Comparison comparison;
  SimilarityAccumulator similarity;
  const std::size_t element_bytes = SizeOf(problem.output_dtype);
  ForEachRow(problem, output, reference,
             [&](std::int64_t row, const std::byte* got, const double* want) {
               if (IsEmptyRow(reference, row)) return;
               for (std::int64_t d = 0; d < problem.head_dim; ++d) {
                 similarity.Add(Load(problem.output_dtype, got + d * element_bytes), want[d]);
               }
               if (!problem.return_lse || !std::isfinite(reference.lse[row])) return;
               const double error = std::abs(output.lse[row] - reference.lse[row]);
               // Written so that NaN, once there, stays.
               if (!(error <= comparison.lse_error) && !std::isnan(comparison.lse_error)) {
                 comparison.lse_error =
                     std::isfinite(error) ? error : std::numeric_limits<double>::quiet_NaN();
               }
             });
  comparison.out = similarity.Result();
  return comparison;
}

::testing::AssertionResult EmptyRowsAreExact(const AttentionProblem& problem,
                                             const PoisonedOutput& output,
                                             const ReferenceResult& reference) {
  ::testing::AssertionResult result = ::testing::AssertionSuccess();
  const std::size_t element_bytes = SizeOf(problem.output_dtype);
  ForEachRow(
      problem, output, reference, [&](std::int64_t row, const std::byte* got, const double*) {
        if (!result || !IsEmptyRow(reference, row)) return;
        for (std::int64_t d = 0; d < problem.head_dim; ++d) {
          const double value = Load(problem.output_dtype, got + d * element_bytes);
          if (value != 0) {
            result = ::testing::AssertionFailure() << "empty row " << row << " (of batch x heads x "
                                                   << "rows) has " << value << " in channel " << d;
            return;
          }
        }
        if (problem.return_lse && output.lse[row] != -std::numeric_limits<float>::infinity()) {
          result = ::testing::AssertionFailure()
                   << "empty row " << row << " has lse " << output.lse[row];
        }
      });
  return result;
}

double RelativeL2Limit(Precision precision, DType dtype) {
  switch (precision) {
    case Precision::kQkInt8PvFp16:
      return 0.03;
    case Precision::kQkInt8PvFp8:
      return 0.06;
    case Precision::kFp16:
      return dtype == DType::kBFloat16 ? 0.01 : 0.002;
  }
  return 0;
}

double LseLimit(Precision precision) { return precision == Precision::kFp16 ? 0.002 : 0.1; }

std::string Describe(const AttentionProblem& problem, std::uint64_t seed) {
  std::ostringstream text;
  text << "batch " << problem.batch << ", heads " << problem.num_heads_q << "/"
       << problem.num_heads_kv << ", seqlen_q " << problem.seqlen_q << ", seqlen_k "
       << problem.seqlen_k << ", head_dim " << problem.head_dim << ", " << Name(problem.dtype)
       << " to " << Name(problem.output_dtype) << ", " << Name(problem.layout) << ", "
       << Name(problem.precision) << (problem.is_causal ? ", causal" : "")
       << (problem.return_lse ? ", lse" : "");
  if (problem.softmax_scale) text << ", softmax_scale " << *problem.softmax_scale;
  for (const std::int64_t length : problem.seqlens_q) text << ", length_q " << length;
  for (const std::int64_t length : problem.seqlens_k) text << ", length_k " << length;
  text << ", seed " << seed;
  return text.str();
}

}  // namespace sage::testing
