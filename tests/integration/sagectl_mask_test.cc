// sagectl mask.
#include <cstring>
#include <vector>

#include "client/io/tensor_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/sagectl_fixture.h"

namespace sage::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST_F(SagectlTest, MakesConvertsAndShowsMasks) {
  const Outcome made = Run({"mask", "make", "--pattern", "random", "--density", "0.25", "--seed",
                            "5", "--heads", "2", "--seqlen", "1024", "--out", Path("m.npy")});
  ASSERT_EQ(made.exit_code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("[1, 2, 8, 16], density 0.2500"));
  ASSERT_EQ(Run({"mask", "convert", Path("m.npy"), "--out", Path("m.safetensors")}).exit_code, 0);
  const auto npy = TensorFile::Open(Path("m.npy"));
  const auto safetensors = TensorFile::Open(Path("m.safetensors"));
  ASSERT_TRUE(npy.ok() && safetensors.ok());
  const auto a = npy->Find("mask");
  const auto b = safetensors->Find("mask");
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->shape, b->shape);
  EXPECT_EQ(0, std::memcmp(a->data, b->data, a->bytes));

  ASSERT_EQ(Run({"mask", "make", "--pattern", "causal", "--seqlen", "256", "--out", Path("c.npy")})
                .exit_code,
            0);
  EXPECT_THAT(Run({"mask", "show", Path("c.npy")}).out,
              HasSubstr("┌────┐\n│██  │\n│████│\n└────┘\n"));
  ASSERT_EQ(Run({"mask", "show", Path("m.npy"), "--head", "1", "--png", Path("m.png"), "--svg",
                 Path("m.svg")})
                .exit_code,
            0);
  EXPECT_EQ(ReadFile(Path("m.png")).substr(1, 3), "PNG");
  EXPECT_THAT(ReadFile(Path("m.svg")), AllOf(HasSubstr("<svg"), HasSubstr("density 0.2500")));
}

TEST_F(SagectlTest, RefusesBadMasks) {
  const std::vector<std::uint8_t> blocks(4 * 2 * 3, 1);
  Write("mask.npy", {"mask", ElementType::kBool, {1, 4, 2, 3}}, blocks.data());
  ExpectRefused({
      {{"mask", "show", Path("missing.npy")}, "missing.npy"},
      {{"mask", "show", Path("mask.npy"), "--head", "4"}, "head 4"},
      {{"mask", "make", "--pattern", "full", "--out", Path("m.npy")}, "--seqlen"},
      {{"mask", "make", "--pattern", "star", "--seqlen", "128", "--out", Path("m.npy")}, "random"},
  });
}

}  // namespace
}  // namespace sage::testing
