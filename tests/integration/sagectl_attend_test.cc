// sagectl attend and verify against a server in this process, with real files.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "client/io/tensor_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/integration/sagectl_fixture.h"
#include "tests/support/problem_generator.h"

namespace sage::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(SagectlWithServerTest, AttendsFromFilesToFiles) {
  std::uint64_t seed = 1;
  for (const Layout layout : {Layout::kHnd, Layout::kNhd}) {
    for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
      for (const bool causal : {false, true}) {
        AttentionProblem problem = SmallProblem();
        problem.layout = layout;
        problem.dtype = problem.output_dtype = dtype;
        problem.is_causal = causal;
        SCOPED_TRACE(Describe(problem, seed));
        const ProblemData data = MakeData(problem, DataKind::kNormal, seed);
        std::vector<std::uint8_t> mask = RandomDenseMask(problem, 1, 4, 0.5, seed);
        ClearMaskRows(problem, 3, &mask);
        const std::string extension = dtype == DType::kFloat16 ? ".npy" : ".safetensors";
        WriteInputs(problem, data, extension);
        Write("mask.npy", {"mask", ElementType::kUInt8, {1, 4, 2, 4}}, mask.data());

        std::vector<std::string> arguments = InputArguments(extension);
        arguments.insert(arguments.begin(), "attend");
        for (const std::string& argument :
             {std::string("--mask"), Path("mask.npy"), std::string("--layout"),
              std::string(Name(layout)), std::string("--out"), Path("o" + extension),
              std::string("--lse"), Path("lse.npy")}) {
          arguments.push_back(argument);
        }
        if (causal) arguments.emplace_back("--causal");
        const Outcome outcome = Run(arguments);
        ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
        EXPECT_THAT(outcome.out, HasSubstr("density"));
        EXPECT_EQ(outcome.err, "");

        PoisonedOutput output(problem);
        const auto out_file = TensorFile::Open(Path("o" + extension));
        const auto lse_file = TensorFile::Open(Path("lse.npy"));
        ASSERT_TRUE(out_file.ok() && lse_file.ok());
        const auto out = out_file->Find("out");
        const auto lse = lse_file->Find("lse");
        ASSERT_TRUE(out.ok() && lse.ok());
        ASSERT_EQ(static_cast<std::size_t>(out->bytes), output.out.size());
        ASSERT_EQ(static_cast<std::size_t>(lse->bytes), 4 * output.lse.size());
        std::memcpy(output.out.data(), out->data, out->bytes);
        std::memcpy(output.lse.data(), lse->data, lse->bytes);
        const ReferenceResult reference = Reference(problem, data, mask, 1, 4);
        const Comparison comparison = Compare(problem, output, reference);
        EXPECT_LE(comparison.out.relative_l2, RelativeL2Limit(problem.precision, dtype));
        EXPECT_LE(comparison.lse_error, LseLimit(problem.precision));
        EXPECT_TRUE(EmptyRowsAreExact(problem, output, reference));
        ++seed;
      }
    }
  }
}

TEST_F(SagectlWithServerTest, TakesOneFileWithAllTensorsAndTheirMask) {
  const AttentionProblem problem = SmallProblem();
  const ProblemData data = MakeData(problem, DataKind::kNormal, 7);
  const std::vector<std::uint8_t> mask(2 * 4, 1);
  auto writer =
      TensorWriter::Create(Path("qkv.safetensors"), {{"q", ElementType::kFloat16, {2, 4, 129, 64}},
                                                     {"k", ElementType::kFloat16, {2, 2, 200, 64}},
                                                     {"v", ElementType::kFloat16, {2, 2, 200, 64}},
                                                     {"mask", ElementType::kBool, {2, 4}}});
  ASSERT_TRUE(writer.ok());
  std::memcpy(writer->data(0), data.q.data(), data.q.size());
  std::memcpy(writer->data(1), data.k.data(), data.k.size());
  std::memcpy(writer->data(2), data.v.data(), data.v.size());
  std::memcpy(writer->data(3), mask.data(), mask.size());
  ASSERT_TRUE(writer->Commit().ok());
  const Outcome attend = Run({"attend", "--in", Path("qkv.safetensors"), "--out",
                              Path("o.safetensors"), "--output-dtype", "bf16", "--json"});
  EXPECT_EQ(attend.exit_code, 0) << attend.err;
  EXPECT_THAT(attend.out, AllOf(HasSubstr("\"kernel\":"), HasSubstr("\"output_dtype\":\"bf16\"")));
  const Outcome verify = Run(
      {"verify", "--in", Path("qkv.safetensors"), "--seqlens-k", "200,70", "--seqlens-q", "129,0"});
  EXPECT_EQ(verify.exit_code, 0) << verify.out << verify.err;
}

TEST_F(SagectlWithServerTest, ConvertsFloat32Files) {
  std::vector<float> ones(2 * 2 * 200 * 64, 1.0f);
  Write("q.npy", {"q", ElementType::kFloat32, {2, 4, 129, 64}},
        std::vector<float>(2 * 4 * 129 * 64, 0.5f).data());
  Write("k.npy", {"k", ElementType::kFloat32, {2, 2, 200, 64}}, ones.data());
  Write("v.npy", {"v", ElementType::kFloat32, {2, 2, 200, 64}}, ones.data());
  std::vector<std::string> arguments = InputArguments(".npy");
  arguments.insert(arguments.begin(), "attend");
  arguments.insert(arguments.end(), {"--out", Path("o.npy"), "--precision", "fp16"});
  ASSERT_EQ(Run(arguments).exit_code, 0);
  const auto file = TensorFile::Open(Path("o.npy"));
  ASSERT_TRUE(file.ok());
  const auto out = file->Find("out");
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->type, ElementType::kFloat32);
  EXPECT_NEAR(reinterpret_cast<const float*>(out->data)[5], 1.0f, 1e-3f);  // an average of ones

  ones[77] = 1e9f;
  Write("v.npy", {"v", ElementType::kFloat32, {2, 2, 200, 64}}, ones.data());
  const Outcome refused = Run(arguments);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("1e+09"));
  arguments.insert(arguments.end(), {"--dtype", "bf16"});
  EXPECT_EQ(Run(arguments).exit_code, 0);
}

TEST_F(SagectlWithServerTest, PrequantizedOperandsGiveTheSameFileForFewerBytes) {
  const AttentionProblem problem = SmallProblem();
  const ProblemData data = MakeData(problem, DataKind::kNormal, 11);
  WriteInputs(problem, data, ".npy");
  const auto attend = [&](const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> arguments = InputArguments(".npy");
    arguments.insert(arguments.begin(), "attend");
    arguments.insert(arguments.end(), {"--out", Path(out), "--lse", Path("lse_" + out), "--json"});
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = Run(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out).at("bytes_in").get<std::size_t>();
  };
  const auto content = [&](const std::string& name) {
    std::ifstream file(Path(name), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  const std::size_t halves = data.q.size() + data.k.size();
  EXPECT_EQ(attend("plain.npy", {}), halves + data.v.size());
  EXPECT_EQ(attend("int8.npy", {"--prequantize"}), halves / 2 + data.v.size());
  EXPECT_EQ(content("plain.npy"), content("int8.npy"));
  EXPECT_EQ(content("lse_plain.npy"), content("lse_int8.npy"));
  EXPECT_EQ(Run({"verify", "--seqlen", "129", "--head-dim", "72", "--prequantize"}).exit_code, 0);
}

TEST_F(SagectlWithServerTest, VerifiesGeneratedProblems) {
  const Outcome table = Run({"verify", "--heads", "4", "--kv-heads", "2", "--seqlen", "65,1000",
                             "--head-dim", "64,72", "--density", "0.5", "--precision",
                             "qk_int8_pv_fp16,qk_int8_pv_fp8,fp16", "--causal"});
  EXPECT_EQ(table.exit_code, 0) << table.out << table.err;
  EXPECT_THAT(table.out, AllOf(HasSubstr("eff.TOPS"), HasSubstr("S1000 D72"), HasSubstr("ok"),
                               Not(HasSubstr("FAILED"))));
  const Outcome json = Run({"verify", "--seqlen-q", "100", "--seqlen-k", "300", "--layout", "NHD",
                            "--dtype", "bf16", "--pattern", "sink_window:1,1", "--json"});
  EXPECT_EQ(json.exit_code, 0) << json.err;
  EXPECT_THAT(json.out, AllOf(HasSubstr("\"passed\":true"), HasSubstr("\"rows_checked\":400")));
  const Outcome strict = Run({"verify", "--seqlen", "128", "--limit", "0.000001"});
  EXPECT_EQ(strict.exit_code, 1);
  EXPECT_THAT(strict.err, HasSubstr("over the limit of 0.000001"));
  EXPECT_THAT(strict.out, HasSubstr("FAILED"));
}

TEST_F(SagectlTest, VerifyFailsOnACorruptedAnswer) {
  StartFaultyServer();
  UseServer(target());
  const std::vector<std::string> command = {"verify", "--seqlen", "300", "--density", "0.5"};
  EXPECT_EQ(Run(command).exit_code, 0);
  faults.corrupt_outputs = true;
  const Outcome outcome = Run(command);
  EXPECT_EQ(outcome.exit_code, 1);
  EXPECT_THAT(outcome.err, HasSubstr("verification failed"));
  faults.corrupt_outputs = false;
  EXPECT_EQ(Run(command).exit_code, 0);
}

TEST_F(SagectlWithServerTest, RefusesBadInputsOfAttendAndVerify) {
  const AttentionProblem problem = SmallProblem();
  WriteInputs(problem, MakeData(problem, DataKind::kNormal, 3), ".npy");
  const std::vector<std::uint8_t> blocks(4 * 2 * 3, 1);
  Write("mask.npy", {"mask", ElementType::kBool, {1, 4, 2, 3}}, blocks.data());
  Write("flat.npy", {"q", ElementType::kFloat16, {4, 3}}, blocks.data());
  std::ofstream(Path("text.npy")) << "hello";
  const auto attend = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = InputArguments(".npy");
    arguments.insert(arguments.begin(), {"attend", "--out", Path("o.npy")});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  ExpectRefused({
      {{"attend", "--nonsense"}, "--out"},
      {{"attend", "--out", Path("o.npy")}, "no input"},
      {{"attend", "--out", Path("o.npy"), "--q", Path("q.npy")}, "--k"},
      {attend({"--precision", "fp12"}),
       "--precision: got fp12, allowed qk_int8_pv_fp16|qk_int8_pv_fp8|fp16"},
      {attend({"--layout", "HDN"}), "HDN"},
      {attend({"--layout", "NHD"}), "is the layout HND?"},
      {attend({"--scale", "-1"}), "softmax_scale"},
      {attend({"--seqlens-k", "1"}), "seqlens_k"},
      {attend({"--mask", Path("missing.npy")}), "missing.npy"},
      {attend({"--mask", Path("text.npy")}), "not a usable .npy"},
      {attend({"--mask", Path("mask.npy")}), "it must be [1 or 2, 1 or 4, 2, 4]"},
      {attend({"--mask", Path("q.npy")}), "bool or uint8"},
      {attend({"--pattern", "sliding_window:1"}), "sliding_window:LEFT,RIGHT"},
      {attend({"--pattern", "sliding_window:-1,0"}), "left_blocks"},
      {attend({"--output-dtype", "bf16"}), ".npy has no bfloat16"},
      {attend({"--lse", "/no/such/folder/l.npy"}), "/no/such/folder"},
      {attend({"--timeout", "0"}), "--timeout"},
      {attend({"--precision", "fp16", "--prequantize"}), "--prequantize: not with precision fp16"},
      {{"verify", "--precision", "fp16", "--prequantize"}, "not with precision fp16"},
      {{"attend", "--out", Path("o.npy"), "--q", Path("q.npy"), "--k", Path("k.npy"), "--v",
        Path("q.npy")},
       "k and v need the same shape"},
      {{"attend", "--out", Path("o.npy"), "--q", Path("flat.npy"), "--k", Path("k.npy"), "--v",
        Path("v.npy")},
       "4 dimensions"},
      {{"verify", "--head-dim", "12"}, "head_dim"},
      {{"verify", "--density", "2"}, "--density"},
  });
  EXPECT_FALSE(std::filesystem::exists(Path("o.npy")));
}

}  // namespace
}  // namespace sage::testing
