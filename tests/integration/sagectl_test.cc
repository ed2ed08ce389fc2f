// The sagectl program against a server in this process, with real files.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "client/io/tensor_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "server/token_file.h"
#include "tests/support/certificate_authority.h"
#include "tests/support/child_process.h"
#include "tests/support/faulty_backend.h"
#include "tests/support/problem_generator.h"
#include "tests/support/server_fixture.h"
#include "tests/support/xml_check.h"

namespace sage::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Outcome {
  int exit_code = -1;
  std::string out;
  std::string err;
};

ElementType ElementOf(DType dtype) {
  return dtype == DType::kFloat16    ? ElementType::kFloat16
         : dtype == DType::kBFloat16 ? ElementType::kBFloat16
                                     : ElementType::kFloat32;
}

class SagectlTest : public ServerFixture {
 protected:
  std::string Path(const std::string& name) const { return folder_.File(name); }

  // Runs sagectl, which finds the server through the environment.
  Outcome Run(const std::vector<std::string>& arguments) const {
    return RunWith({"SAGE_SERVER=" + server_target_}, arguments);
  }

  // Runs it with these variables of the environment alone, and a locale.
  static Outcome RunWith(std::vector<std::string> environment,
                         const std::vector<std::string>& arguments,
                         const std::string& program = SAGECTL_PROGRAM) {
    environment.emplace_back("LC_ALL=C.UTF-8");
    ChildProcess child(program, arguments, std::move(environment));
    const int exit_code = child.Wait().value_or(-1);
    return {exit_code, child.out(), child.err()};
  }

  void UseServer(const std::string& target) { server_target_ = target; }

  void Write(const std::string& name, const NamedTensor& tensor, const void* data) const {
    auto writer = TensorWriter::Create(Path(name), {tensor});
    ASSERT_TRUE(writer.ok()) << writer.status();
    std::memcpy(writer->data(0), data, TensorBytes(tensor.type, tensor.shape).value());
    ASSERT_TRUE(writer->Commit().ok());
  }

  // Writes the tensors of a problem as q, k, v with this extension.
  void WriteInputs(const AttentionProblem& problem, const ProblemData& data,
                   const std::string& extension) const {
    const auto shape = [&](std::int64_t heads, std::int64_t rows) {
      return problem.layout == Layout::kHnd
                 ? std::vector<std::int64_t>{problem.batch, heads, rows, problem.head_dim}
                 : std::vector<std::int64_t>{problem.batch, rows, heads, problem.head_dim};
    };
    const ElementType type = ElementOf(problem.dtype);
    Write("q" + extension, {"q", type, shape(problem.num_heads_q, problem.seqlen_q)},
          data.q.data());
    Write("k" + extension, {"k", type, shape(problem.num_heads_kv, problem.seqlen_k)},
          data.k.data());
    Write("v" + extension, {"v", type, shape(problem.num_heads_kv, problem.seqlen_k)},
          data.v.data());
  }

  std::vector<std::string> InputArguments(const std::string& extension) const {
    return {"--q", Path("q" + extension), "--k", Path("k" + extension),
            "--v", Path("v" + extension)};
  }

  const ScratchFolder folder_;
  std::string server_target_;
};

class SagectlWithServerTest : public SagectlTest {
 protected:
  void SetUp() override {
    StartServer();
    UseServer(target());
  }
};

AttentionProblem SmallProblem() {
  AttentionProblem problem;
  problem.batch = 2;
  problem.num_heads_q = 4;
  problem.num_heads_kv = 2;
  problem.seqlen_q = 129;
  problem.seqlen_k = 200;
  problem.head_dim = 64;
  problem.return_lse = true;
  return problem;
}

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

TEST_F(SagectlTest, VerifyFailsOnACorruptedAnswer) {
  Faults faults;
  StartServer(TestServerOptions(), MakeFaultyBackend(TestBackend(), faults));
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

TEST_F(SagectlWithServerTest, MeasuresAGrid) {
  const std::vector<std::string> grid = {
      "bench",      "--seqlen", "100,200",    "--head-dim",    "64",       "--sparsity", "0,0.5",
      "--pattern",  "band:0,1", "--pattern",  "strided:2,0,1", "--causal", "no,yes",     "--dtype",
      "bf16,fp16",  "--repeat", "2",          "--warmup",      "1",        "--heads",    "4",
      "--kv-heads", "2",        "--resident", "no,yes"};
  std::vector<std::string> files = grid;
  files.insert(files.end(), {"--verify", "--json", Path("run.json"), "--csv", Path("run.csv"),
                             "--plot", Path("figures")});
  const Outcome run = Run(files);
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_EQ(run.err, "");  // no progress bar where there is no terminal
  EXPECT_THAT(run.out, AllOf(HasSubstr("B1 H4/2 S200 D64 bf16 HND causal"), HasSubstr("band:0,1"),
                             HasSubstr("kernel TOPS"), Not(HasSubstr("FAILED"))));
  const auto json = nlohmann::json::parse(ReadFile(Path("run.json")));
  ASSERT_EQ(json.at("cases").size(), 2U * 4 * 2 * 2 * 2);
  for (const auto& entry : json["cases"]) {
    EXPECT_TRUE(entry.at("verification").at("passed")) << entry;
    EXPECT_GE(entry.at("seconds").at("wall").at("min"), entry["seconds"]["kernel"].at("min"));
    EXPECT_GT(entry.at("kernel_tops"), 0);
    const int heads_sent = entry.at("resident_kv") ? 4 : 4 + 2 + 2;
    EXPECT_EQ(entry.at("bytes_in"), heads_sent * entry["seqlen_q"].get<int>() * 64 * 2);
  }
  EXPECT_TRUE(
      IsWellFormedXml(ReadFile(Path("figures/tops_B1_H4-2_D64_fp16_qk_int8_pv_fp16_causal.svg"))));
  const std::string csv = ReadFile(Path("run.csv"));
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 65);

  std::vector<std::string> again = grid;
  again.insert(again.end(), {"--compare", Path("run.json")});
  EXPECT_THAT(Run(again).out, HasSubstr("call before(ms)"));
  again = grid;
  again.emplace_back("--json");
  const Outcome piped = Run(again);
  EXPECT_EQ(nlohmann::json::parse(piped.out).at("cases").size(), 64U);
}

TEST_F(SagectlTest, BenchReportsRefusalsAndWrongAnswers) {
  Faults faults;
  StartServer(TestServerOptions(), MakeFaultyBackend(TestBackend(), faults));
  UseServer(target());
  faults.attends = 1;
  const Outcome refused =
      Run({"bench", "--seqlen", "128,256", "--warmup", "0", "--repeat", "1", "--json"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("INTERNAL"), HasSubstr("S128")));
  const auto json = nlohmann::json::parse(refused.out);
  EXPECT_EQ(json.at("cases").at(0).at("error").at("code"), "INTERNAL");
  EXPECT_TRUE(json.at("cases").at(1).contains("seconds"));  // goes on
  faults.corrupt_outputs = true;
  const Outcome wrong = Run({"bench", "--seqlen", "128", "--repeat", "1", "--verify"});
  EXPECT_EQ(wrong.exit_code, 1);
  EXPECT_THAT(wrong.err, HasSubstr("verification failed"));
  EXPECT_THAT(wrong.out, HasSubstr("FAILED"));
}

TEST_F(SagectlWithServerTest, LoadAgreesWithTheServersOwnFigures) {
  const Outcome run = Run({"load", "--concurrency", "2,4", "--duration", "2s", "--ramp", "100ms",
                           "--seqlen", "128", "--head-dim", "64", "--connections", "2", "--json",
                           Path("run.json"), "--csv", Path("run.csv"), "--html", Path("run.html")});
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_EQ(run.err, "");  // no live line where there is no terminal
  EXPECT_THAT(run.out,
              AllOf(HasSubstr("concurrency 4"), HasSubstr("p99.99"), HasSubstr("servers")));
  const auto json = nlohmann::json::parse(ReadFile(Path("run.json")));
  ASSERT_EQ(json.at("steps").size(), 2U);
  for (const auto& step : json["steps"]) {
    const auto& server = step.at("servers").at(0);
    EXPECT_EQ(step.at("whole_step").at("ok"), server.at("ok"));
    EXPECT_EQ(step["whole_step"].at("bytes_in"), server.at("bytes_in"));
    EXPECT_EQ(step["whole_step"].at("bytes_out"), server.at("bytes_out"));
    EXPECT_LE(std::abs(step.at("difference_percent").get<double>()), 2) << step;
    EXPECT_GE(step["whole_step"]["ok"], step.at("ok"));
    EXPECT_GT(step.at("ok"), 0);
    const auto& latency = step.at("latency_seconds");
    EXPECT_LE(latency.at("min"), latency.at("p50"));
    EXPECT_LE(latency.at("p50"), latency.at("p99"));
    EXPECT_LE(latency.at("p99"), latency.at("p99.99"));
    EXPECT_LE(latency.at("p99.99"), latency.at("max"));
    EXPECT_LE(step.at("server_total_seconds").at("min"), latency.at("max"));
  }
  const std::string html = ReadFile(Path("run.html"));
  EXPECT_TRUE(IsWellFormedXml(html));
  EXPECT_THAT(html, AllOf(HasSubstr("<svg"), Not(HasSubstr("<script")), Not(HasSubstr("href=")),
                          Not(HasSubstr("src="))));
  const std::string csv = ReadFile(Path("run.csv"));
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 3);
}

TEST_F(SagectlWithServerTest, LoadsAMixAtARate) {
  std::ofstream(Path("mix.toml")) << R"(
[[shape]]
name = "long & <wide>"
weight = 0.5
heads = 4
kv_heads = 2
seqlen_q = 100
seqlen_k = 300
head_dim = 64
causal = true
precision = "fp16"
dtype = "bf16"
layout = "NHD"
pattern = "sliding_window:1,0"
[[shape]]
seqlen = 64
head_dim = 64
sparsity = 0.5
)";
  const Outcome run = Run({"load", "--mix", Path("mix.toml"), "--rate", "200", "--arrivals",
                           "constant", "--count", "50", "--json", "--html", Path("run.html")});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto json = nlohmann::json::parse(run.out);
  const auto& step = json.at("steps").at(0);
  EXPECT_EQ(step.at("ok"), 50);
  EXPECT_EQ(step.at("loop"), "open");
  EXPECT_EQ(json.at("shapes").at(0).at("num_heads_kv"), 2);
  EXPECT_EQ(json["shapes"].at(1).at("mask"), "sparsity 0.5");
  // Both kinds were sent: bytes up lie between those of either kind alone.
  const double bytes = step.at("whole_step").at("bytes_in").get<double>() / 50;
  EXPECT_GT(bytes, 3 * 4 * 64 * 64 * 2);
  EXPECT_LT(bytes, (4 * 100 + 2 * 2 * 300) * 64 * 2);
  EXPECT_TRUE(IsWellFormedXml(ReadFile(Path("run.html"))));
}

TEST_F(SagectlWithServerTest, FindsARateThatHolds) {
  const auto search = [&](const char* goal) {
    return Run({"load", "--seqlen", "64", "--head-dim", "64", "--duration", "200ms", "--rate", "50",
                "--max-in-flight", "4", "--slo", goal, "--json"});
  };
  const Outcome held = search("p90=100ms");
  EXPECT_EQ(held.exit_code, 0) << held.err;
  EXPECT_GT(nlohmann::json::parse(held.out).at("highest_rate"), 0);
  const Outcome missed = search("p99=1ns");
  EXPECT_EQ(missed.exit_code, 1);
  EXPECT_THAT(missed.err, HasSubstr("no rate was found at which p99=1ns holds"));
}

TEST_F(SagectlTest, LoadStatesFailures) {
  Faults faults;
  StartServer(TestServerOptions(), MakeFaultyBackend(TestBackend(), faults));
  UseServer(target());
  faults.attends = 3;
  const Outcome run = Run({"load", "--concurrency", "1", "--count", "10", "--seqlen", "64"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.out, AllOf(HasSubstr("INTERNAL"), HasSubstr("whole step")));
  EXPECT_THAT(run.err, HasSubstr("3 requests failed"));
}

TEST_F(SagectlWithServerTest, ShowsInfo) {
  EXPECT_THAT(Run({"info"}).out, AllOf(HasSubstr("backend:  cpu"), HasSubstr("qk_int8_pv_fp16")));
  EXPECT_THAT(Run({"info", "--json"}).out, HasSubstr("\"requests_ok\""));
}

TEST_F(SagectlTest, SaysThatNoServerIsThere) {
  UseServer("127.0.0.1:1");
  for (const char* command : {"info", "verify", "bench", "load"}) {
    const Outcome outcome = Run({command});
    EXPECT_EQ(outcome.exit_code, 1);
    EXPECT_THAT(outcome.err,
                AllOf(HasSubstr("cannot reach 127.0.0.1:1"), HasSubstr("is sage-server running?")));
  }
}

TEST_F(SagectlWithServerTest, RefusesBadUsageWithAReason) {
  const AttentionProblem problem = SmallProblem();
  WriteInputs(problem, MakeData(problem, DataKind::kNormal, 3), ".npy");
  const std::vector<std::uint8_t> blocks(4 * 2 * 3, 1);
  Write("mask.npy", {"mask", ElementType::kBool, {1, 4, 2, 3}}, blocks.data());
  Write("flat.npy", {"q", ElementType::kFloat16, {4, 3}}, blocks.data());
  std::ofstream(Path("text.npy")) << "hello";
  std::ofstream(Path("bad.toml")) << "[[shape]]\nsequence = 5\n";
  const auto attend = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = InputArguments(".npy");
    arguments.insert(arguments.begin(), {"attend", "--out", Path("o.npy")});
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  };
  const struct {
    std::vector<std::string> arguments;
    std::string message;
  } kCases[] = {
      {{}, "subcommand"},
      {{"nonsense"}, "nonsense"},
      {{"attend", "--nonsense"}, "--out"},
      {{"attend", "--out", Path("o.npy")}, "no input"},
      {{"attend", "--out", Path("o.npy"), "--q", Path("q.npy")}, "--k"},
      {attend({"--precision", "fp12"}), "fp12"},
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
      {{"bench", "--head-dim", "12"}, "head_dim"},
      {{"bench", "--sparsity", "1"}, "--sparsity"},
      {{"bench", "--seqlen", "abc"}, "--seqlen"},
      {{"bench", "--causal", "maybe"}, "--causal"},
      {{"bench", "--repeat", "0"}, "--repeat"},
      {{"bench", "--pattern", "star:1"}, "sliding_window:LEFT,RIGHT"},
      {{"bench", "--json", "--csv"}, "cannot both go to stdout"},
      {{"bench", "--json", "/no/such/folder/b.json"}, "/no/such/folder"},
      {{"bench", "--compare", Path("text.npy")}, "not what `sagectl bench --json` writes"},
      {{"bench", "--compare", Path("text.npy"), "--json"}, "give --json and --csv a file"},
      {{"load", "--concurrency", "0"}, "--concurrency"},
      {{"load", "--concurrency", "2", "--rate", "5"}, "--concurrency excludes --rate"},
      {{"load", "--rate", "-5"}, "--rate"},
      {{"load", "--duration", "soon"}, "for instance 10s"},
      {{"load", "--duration", "0s"}, "longer than 0"},
      {{"load", "--slo", "fast"}, "for instance p99=50ms"},
      {{"load", "--slo", "p99=1s", "--rate", "1,2"}, "give one --rate"},
      {{"load", "--head-dim", "12"}, "head_dim"},
      {{"load", "--mix", Path("missing.toml")}, "there is no such file"},
      {{"load", "--mix", Path("bad.toml")}, "bad.toml:2: unknown key 'sequence'; known: batch"},
      {{"load", "--mix", Path("text.npy")}, "text.npy:1"},
      {{"load", "--mix", Path("bad.toml"), "--seqlen", "64"}, "--seqlen excludes --mix"},
      {{"mask", "show", Path("missing.npy")}, "missing.npy"},
      {{"mask", "show", Path("mask.npy"), "--head", "4"}, "head 4"},
      {{"mask", "make", "--pattern", "full", "--out", Path("m.npy")}, "--seqlen"},
      {{"mask", "make", "--pattern", "star", "--seqlen", "128", "--out", Path("m.npy")}, "random"},
  };
  for (const auto& test : kCases) {
    const Outcome outcome = Run(test.arguments);
    EXPECT_EQ(outcome.exit_code, 2) << test.message << ": " << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(test.message));
    EXPECT_FALSE(std::filesystem::exists(Path("o.npy")));
  }
  EXPECT_EQ(Run({"--help"}).exit_code, 0);
  EXPECT_THAT(Run({"attend", "--help"}).out, HasSubstr("Examples:"));
}

TEST_F(SagectlWithServerTest, KnowsServersByName) {
  std::filesystem::create_directories(Path("sagectl"));
  const std::string config = Path("sagectl/config.toml");
  std::ofstream(config) << "default = \"lab\"\n[server.lab]\ntarget = \"" << target()
                        << "\"\ntimeout = 30\n[server.away]\ntarget = \"127.0.0.1:1\"\n";
  const std::string home = "XDG_CONFIG_HOME=" + Path("");
  EXPECT_THAT(RunWith({home}, {"info"}).out, HasSubstr(target()));
  EXPECT_THAT(RunWith({"SAGE_CONFIG=" + config}, {"info", "--server", "lab"}).out,
              HasSubstr(target()));
  EXPECT_EQ(RunWith({home}, {"load", "--server", "lab,lab", "--count", "2", "--seqlen", "64",
                             "--concurrency", "1"})
                .exit_code,
            0);
  // The flag wins over the environment, the environment over the file.
  EXPECT_THAT(RunWith({home, "SAGE_SERVER=away"}, {"info"}).err, HasSubstr("127.0.0.1:1"));
  EXPECT_EQ(RunWith({home, "SAGE_SERVER=away"}, {"info", "--server", target()}).exit_code, 0);

  const struct {
    const char* content;
    const char* message;
  } kCases[] = {
      {"", "no server 'home': give HOST:PORT"},
      {"[server.lab]\ntarget = \"a:1\"\n", "which has lab"},
      {"[server.lab]\ntarget = \"a\"\n", "config.toml:2: target: must be HOST:PORT"},
      {"[server.lab]\ntarget = 5\n", "config.toml:2: target: must be a string"},
      {"[server.lab]\ntarget = \"a:1\"\nport = 5\n", "config.toml:3: unknown key 'port'"},
      {"server = 5\n", "must be tables, each under [server.NAME]"},
      {"[server", "config.toml:1"},
  };
  for (const auto& test : kCases) {
    std::ofstream(config) << test.content;
    const Outcome outcome = RunWith({home}, {"info", "--server", "home"});
    EXPECT_EQ(outcome.exit_code, 2) << test.content;
    EXPECT_THAT(outcome.err, HasSubstr(test.message));
  }
  EXPECT_THAT(RunWith({"SAGE_CONFIG=" + Path("missing")}, {"info"}).err,
              HasSubstr("there is no such file"));
}

TEST_F(SagectlTest, ShowsItsCredentials) {
  const CertificateAuthority authority;
  const Identity identity = authority.IssueForLoopback();
  const auto write = [&](const std::string& name, const std::string& text) {
    std::ofstream(Path(name)) << text;
    std::filesystem::permissions(Path(name), std::filesystem::perms(0600));
  };
  write("ca.pem", authority.certificate());
  write("server.pem", identity.certificate);
  write("server.key", identity.key);
  const std::string token = *server::AddToken(Path("tokens.toml"), "team-a");
  write("a.token", token + "\n");
  server::ServerOptions options = TestServerOptions();
  options.tls_certificate = Path("server.pem");
  options.tls_key = Path("server.key");
  options.tokens = Path("tokens.toml");
  StartServer(options);
  UseServer(target());
  const auto is_team_a = AllOf(HasSubstr("tenant:  team-a"), HasSubstr("for admins of the server"));

  const std::vector<std::string> flags = {"--ca", Path("ca.pem"), "--token-file", Path("a.token")};
  const auto with_flags = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    return Run(arguments);
  };
  EXPECT_THAT(with_flags({"info"}).out, is_team_a);
  EXPECT_THAT(with_flags({"info", "--json"}).out, HasSubstr("\"statistics\":null"));
  EXPECT_EQ(with_flags({"verify", "--seqlen", "64", "--heads", "1"}).exit_code, 0);
  EXPECT_EQ(with_flags({"load", "--count", "2", "--seqlen", "64", "--concurrency", "1"}).exit_code,
            0);
  const std::vector<std::string> environment = {"SAGE_SERVER=" + target(),
                                                "SAGE_CA=" + Path("ca.pem"), "SAGE_TOKEN=" + token};
  EXPECT_THAT(RunWith(environment, {"info"}).out, is_team_a);
  write("config.toml",
        "[server.lab]\ntarget = \"" + target() + "\"\nca = \"ca.pem\"\ntoken_file = \"a.token\"\n");
  const std::string config = "SAGE_CONFIG=" + Path("config.toml");
  EXPECT_THAT(RunWith({config}, {"info", "--server", "lab"}).out, is_team_a);
  write("config.toml", "[server.lab]\ntarget = \"" + target() + "\"\nca = \"ca.pem\"\ntoken = \"" +
                           token + "\"\n");
  EXPECT_THAT(RunWith({config}, {"info", "--server", "lab"}).out, is_team_a);

  std::filesystem::permissions(Path("config.toml"), std::filesystem::perms(0644));
  Outcome refused = RunWith({config}, {"info", "--server", "lab"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("config.toml:4: token: every user of this machine may read"));
  EXPECT_THAT(refused.err, Not(HasSubstr(token)));
  std::filesystem::permissions(Path("a.token"), std::filesystem::perms(0604));
  refused = with_flags({"info"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("chmod 600 " + Path("a.token")));
  refused = RunWith({"SAGE_TOKEN=" + token}, {"info", "--server", "192.0.2.1:1"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("token: not sent unencrypted to 192.0.2.1:1"));
  const Outcome without = Run({"info", "--ca", Path("ca.pem")});
  EXPECT_EQ(without.exit_code, 1);
  EXPECT_THAT(without.err, HasSubstr("UNAUTHENTICATED: authorization: missing"));
}

TEST_F(SagectlTest, CompletesCommandsOptionsAndValues) {
  const Outcome script = Run({"completion", "bash"});
  ASSERT_EQ(script.exit_code, 0);
  std::ofstream(Path("completion")) << script.out;
  const auto completed = [&](const std::string& words) {
    const Outcome outcome =
        RunWith({},
                {"-c", "source " + Path("completion") + "; COMP_WORDS=(" + words +
                           "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _sagectl; "
                           "echo \"${COMPREPLY[*]}\""},
                "/bin/bash");
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  };
  EXPECT_EQ(completed("sagectl be"), "bench\n");
  EXPECT_EQ(completed("sagectl mask con"), "convert\n");
  EXPECT_EQ(completed("sagectl bench --pre"), "--precision\n");
  EXPECT_EQ(completed("sagectl bench --precision qk"), "qk_int8_pv_fp16 qk_int8_pv_fp8\n");
  EXPECT_EQ(completed("sagectl load --seqlen 5 --arrivals ''"), "poisson constant\n");
  EXPECT_EQ(completed("sagectl completion z"), "zsh\n");
  EXPECT_EQ(completed("sagectl attend --q fi"), "\n");  // file names are left to bash
  EXPECT_THAT(Run({"completion", "zsh"}).out, HasSubstr("bashcompinit"));
  EXPECT_EQ(Run({"completion", "fish"}).exit_code, 2);
}

TEST_F(SagectlTest, PrintsManualPages) {
  const std::string page = Run({"man", "bench"}).out;
  EXPECT_THAT(page, AllOf(HasSubstr(".TH SAGECTL-BENCH 1"), HasSubstr("\\fB\\-\\-sparsity\\fR"),
                          HasSubstr(".SH GRID"), HasSubstr("Examples:")));
  EXPECT_THAT(Run({"man", "mask", "make"}).out, HasSubstr(".TH SAGECTL-MASK-MAKE 1"));
  EXPECT_THAT(Run({"man"}).out, AllOf(HasSubstr(".SH COMMANDS"), HasSubstr("load")));
  const Outcome unknown = Run({"man", "nonsense"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("there is no command 'sagectl nonsense'"));
}

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

}  // namespace
}  // namespace sage::testing
