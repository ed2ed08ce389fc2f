// The oracle on the 512x512 example with its 4x8 mask, against float64 attention in numpy.

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/reference_attention.h"
#include "tests/golden/npy_reader.h"

namespace sage::golden {
namespace {

// The golden numbers are rounded to fp32, relative 2^-24; out is below 2 and lse below 10.
constexpr double kOutError = 2e-7;
constexpr double kLseError = 1e-6;

TEST(ExampleGolden, TheOracleAgreesWithNumpy) {
  std::vector<NpyArray> arrays;
  for (const std::string name : {"q", "k", "v", "mask", "out", "lse"}) {
    auto array = ReadNpy("tests/golden/data/example_" + name + ".npy");
    ASSERT_TRUE(array.ok()) << array.status();
    arrays.push_back(*std::move(array));
  }
  const NpyArray& q = arrays[0];
  AttentionProblem problem;
  problem.batch = q.shape[0];
  problem.num_heads_q = problem.num_heads_kv = q.shape[1];
  problem.seqlen_q = problem.seqlen_k = q.shape[2];
  problem.head_dim = q.shape[3];
  ASSERT_TRUE(ValidateProblem(problem).ok());
  const auto mask = arrays[3].As<std::uint8_t>();
  ASSERT_EQ(arrays[3].shape, (std::vector<std::int64_t>{1, 1, 4, 8}));
  const ReferenceResult got = ReferenceAttention(problem, {.q = q.bytes.data(),
                                                           .k = arrays[1].bytes.data(),
                                                           .v = arrays[2].bytes.data(),
                                                           .mask = mask.data()});
  const auto want_out = arrays[4].As<float>();
  const auto want_lse = arrays[5].As<float>();
  ASSERT_EQ(got.out.size(), want_out.size());
  ASSERT_EQ(got.lse.size(), want_lse.size());
  for (std::size_t i = 0; i < want_out.size(); ++i) {
    ASSERT_NEAR(got.out[i], want_out[i], kOutError) << i;
  }
  for (std::size_t i = 0; i < want_lse.size(); ++i) {
    ASSERT_NEAR(got.lse[i], want_lse[i], kLseError) << i;
  }
}

}  // namespace
}  // namespace sage::golden
