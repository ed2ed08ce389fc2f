#include "kernels/attention.h"

#include <cmath>
#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sage {
namespace {

AttentionProblem Valid() {
  AttentionProblem problem;
  problem.batch = 2;
  problem.num_heads_q = 8;
  problem.num_heads_kv = 4;
  problem.seqlen_q = 129;
  problem.seqlen_k = 1000;
  problem.head_dim = 64;
  return problem;
}

struct BadField {
  std::string name;
  std::function<void(AttentionProblem&)> spoil;
  std::string message;
};

class ValidateProblemRefuses : public ::testing::TestWithParam<BadField> {};

TEST_P(ValidateProblemRefuses, WithFieldAndAllowedValues) {
  AttentionProblem problem = Valid();
  GetParam().spoil(problem);
  const absl::Status status = ValidateProblem(problem);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), GetParam().message);
}

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

INSTANTIATE_TEST_SUITE_P(
    EveryField, ValidateProblemRefuses,
    ::testing::Values(BadField{"batch_zero", [](auto& p) { p.batch = 0; },
                               "batch: got 0, allowed 1 to 2147483648"},
                      BadField{"batch_huge", [](auto& p) { p.batch = kHuge; },
                               "batch: got 9223372036854775807, allowed 1 to 2147483648"},
                      BadField{"heads_q_negative", [](auto& p) { p.num_heads_q = -8; },
                               "num_heads_q: got -8, allowed 1 to 2147483648"},
                      BadField{"heads_q_no_multiple", [](auto& p) { p.num_heads_q = 6; },
                               "num_heads_q: got 6, allowed a multiple of num_heads_kv = 4"},
                      BadField{"heads_kv_zero", [](auto& p) { p.num_heads_kv = 0; },
                               "num_heads_kv: got 0, allowed 1 to 2147483648"},
                      BadField{"heads_kv_more_than_q", [](auto& p) { p.num_heads_kv = 16; },
                               "num_heads_q: got 8, allowed a multiple of num_heads_kv = 16"},
                      BadField{"seqlen_q_zero", [](auto& p) { p.seqlen_q = 0; },
                               "seqlen_q: got 0, allowed 1 to 2147483648"},
                      BadField{"seqlen_k_too_long", [](auto& p) { p.seqlen_k = kMaxDimension + 1; },
                               "seqlen_k: got 2147483649, allowed 1 to 2147483648"},
                      BadField{"head_dim_zero", [](auto& p) { p.head_dim = 0; },
                               "head_dim: got 0, allowed a multiple of 8 from 8 to 128"},
                      BadField{"head_dim_odd", [](auto& p) { p.head_dim = 68; },
                               "head_dim: got 68, allowed a multiple of 8 from 8 to 128"},
                      BadField{"head_dim_large", [](auto& p) { p.head_dim = 136; },
                               "head_dim: got 136, allowed a multiple of 8 from 8 to 128"},
                      BadField{"dtype_fp32", [](auto& p) { p.dtype = DType::kFloat32; },
                               "dtype: got fp32, allowed fp16, bf16"},
                      BadField{"output_dtype",
                               [](auto& p) { p.output_dtype = static_cast<DType>(9); },
                               "output_dtype: got 9, allowed fp16, bf16, fp32"},
                      BadField{"layout", [](auto& p) { p.layout = static_cast<Layout>(2); },
                               "layout: got 2, allowed HND, NHD"},
                      BadField{"precision",
                               [](auto& p) { p.precision = static_cast<Precision>(3); },
                               "precision: got 3, allowed qk_int8_pv_fp16, qk_int8_pv_fp8, fp16"},
                      BadField{"scale_zero", [](auto& p) { p.softmax_scale = 0.0F; },
                               "softmax_scale: got 0, allowed finite and positive"},
                      BadField{"scale_negative", [](auto& p) { p.softmax_scale = -0.5F; },
                               "softmax_scale: got -0.5, allowed finite and positive"},
                      BadField{"scale_infinite", [](auto& p) { p.softmax_scale = INFINITY; },
                               "softmax_scale: got inf, allowed finite and positive"},
                      BadField{"scale_nan", [](auto& p) { p.softmax_scale = NAN; },
                               "softmax_scale: got nan, allowed finite and positive"},
                      BadField{"lengths_q_count", [](auto& p) { p.seqlens_q = {1}; },
                               "seqlens_q: got 1 entries, allowed none or 2 (batch)"},
                      BadField{"lengths_q_negative",
                               [](auto& p) {
                                 p.seqlens_q = {0, -1};
                               },
                               "seqlens_q[1]: got -1, allowed 0 to 129"},
                      BadField{"lengths_k_count",
                               [](auto& p) {
                                 p.seqlens_k = {1, 2, 3};
                               },
                               "seqlens_k: got 3 entries, allowed none or 2 (batch)"},
                      BadField{"lengths_k_too_long",
                               [](auto& p) {
                                 p.seqlens_k = {1001, 5};
                               },
                               "seqlens_k[0]: got 1001, allowed 0 to 1000"}),
    [](const auto& test) { return test.param.name; });

TEST(ValidateProblem, AcceptsEveryCombinationOfOptions) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    for (const DType output : {DType::kFloat16, DType::kBFloat16, DType::kFloat32}) {
      for (const Layout layout : {Layout::kHnd, Layout::kNhd}) {
        for (const Precision precision :
             {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8, Precision::kFp16}) {
          AttentionProblem problem = Valid();
          problem.dtype = dtype;
          problem.output_dtype = output;
          problem.layout = layout;
          problem.precision = precision;
          problem.softmax_scale = 1.0F;
          problem.seqlens_q = {0, 129};
          problem.seqlens_k = {1000, 0};
          EXPECT_TRUE(ValidateProblem(problem).ok()) << ValidateProblem(problem);
        }
      }
    }
  }
}

TEST(ValidateProblem, RefusesTensorsWhoseSizeWouldOverflow) {
  AttentionProblem problem = Valid();
  problem.batch = kMaxDimension;
  problem.num_heads_q = kMaxDimension;
  EXPECT_EQ(ValidateProblem(problem).message(),
            "q: got [2147483648, 2147483648, 129, 64], allowed fewer than 2^62 elements");
  problem.num_heads_q = 4;
  problem.seqlen_q = 1;
  problem.seqlen_k = kMaxDimension;
  EXPECT_EQ(ValidateProblem(problem).message(),
            "k: got [2147483648, 4, 2147483648, 64], allowed fewer than 2^62 elements");
}

TEST(ValidateProblem, TheLimitItselfIsRefused) {
  AttentionProblem problem = Valid();
  problem.batch = kMaxDimension;
  problem.num_heads_q = 1;
  problem.num_heads_kv = 1;
  problem.seqlen_k = 1;
  problem.head_dim = 128;
  problem.seqlen_q = 1 << 24;
  EXPECT_EQ(ValidateProblem(problem).message(),
            "q: got [2147483648, 1, 16777216, 128], allowed fewer than 2^62 elements");
  --problem.seqlen_q;
  EXPECT_TRUE(ValidateProblem(problem).ok());
}

TEST(ValidateProblem, CountsTheMaskAmongTheTensors) {
  AttentionProblem problem = Valid();
  problem.batch = 1;
  problem.num_heads_q = 1 << 25;
  problem.num_heads_kv = 1;
  problem.seqlen_q = kMaxDimension / 8;
  problem.seqlen_k = kMaxDimension;
  problem.head_dim = 8;
  EXPECT_EQ(ValidateProblem(problem).message(),
            "mask: got [1, 33554432, 2097152, 33554432], allowed fewer than 2^62 elements");
}

TEST(ValidateProblem, TheLargestProductsStayBelowTheLimit) {
  AttentionProblem problem = Valid();
  problem.batch = 1;
  problem.num_heads_q = 1;
  problem.num_heads_kv = 1;
  problem.seqlen_q = kMaxDimension;
  problem.seqlen_k = kMaxDimension;
  problem.head_dim = 128;
  EXPECT_TRUE(ValidateProblem(problem).ok());
  EXPECT_EQ(problem.q_elements(), std::int64_t{1} << 38);
  EXPECT_DOUBLE_EQ(problem.effective_operations(), 0x1p71);
}

TEST(AttentionProblem, ScaleDefaultsToTheInverseRootOfHeadDim) {
  AttentionProblem problem = Valid();
  EXPECT_EQ(problem.scale(), 0.125F);
  problem.head_dim = 128;
  EXPECT_FLOAT_EQ(problem.scale(), 0.08838835F);
  problem.softmax_scale = 2.0F;
  EXPECT_EQ(problem.scale(), 2.0F);
}

TEST(AttentionProblem, CausalHalvesTheEffectiveOperations) {
  AttentionProblem problem = Valid();
  const double dense = 4.0 * 2 * 8 * 129 * 1000 * 64;
  EXPECT_DOUBLE_EQ(problem.effective_operations(), dense);
  problem.is_causal = true;
  EXPECT_DOUBLE_EQ(problem.effective_operations(), dense / 2);
}

TEST(Names, ParseBackToTheirValue) {
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32}) {
    EXPECT_EQ(ParseDType(Name(dtype)), dtype);
  }
  for (const Layout layout : {Layout::kHnd, Layout::kNhd}) {
    EXPECT_EQ(ParseLayout(Name(layout)), layout);
  }
  for (const Precision precision :
       {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8, Precision::kFp16}) {
    EXPECT_EQ(ParsePrecision(Name(precision)), precision);
  }
  EXPECT_EQ(Name(DType::kBFloat16), "bf16");
  EXPECT_EQ(Name(Layout::kNhd), "NHD");
  EXPECT_EQ(Name(Precision::kQkInt8PvFp8), "qk_int8_pv_fp8");
}

TEST(Names, OtherTextIsNoValue) {
  EXPECT_EQ(ParseDType("float16"), std::nullopt);
  EXPECT_EQ(ParseLayout("hnd"), std::nullopt);
  EXPECT_EQ(ParsePrecision(""), std::nullopt);
}

TEST(SizeOf, CountsBytesOfAnElement) {
  EXPECT_EQ(SizeOf(DType::kFloat16), 2U);
  EXPECT_EQ(SizeOf(DType::kBFloat16), 2U);
  EXPECT_EQ(SizeOf(DType::kFloat32), 4U);
}

TEST(CausalKeyEnd, IsAlignedToTheBottomRightCorner) {
  EXPECT_EQ(CausalKeyEnd(9, 10, 10), 10);  // the last row sees all
  EXPECT_EQ(CausalKeyEnd(0, 10, 10), 1);
  EXPECT_EQ(CausalKeyEnd(0, 10, 15), 6);  // more keys than rows
  EXPECT_EQ(CausalKeyEnd(4, 10, 5), 0);   // more rows than keys: the first see nothing
  EXPECT_EQ(CausalKeyEnd(5, 10, 5), 1);
  EXPECT_EQ(CausalKeyEnd(12, 10, 5), 5);  // rows past the length see no more than all
}

}  // namespace
}  // namespace sage
