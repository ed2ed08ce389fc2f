// sagectl bench against a server in this process.
#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/integration/sagectl_fixture.h"
#include "tests/support/xml_check.h"

namespace sage::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

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
  StartFaultyServer();
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

TEST_F(SagectlWithServerTest, RefusesBadGrids) {
  std::ofstream(Path("text.npy")) << "hello";
  ExpectRefused({
      {{"bench", "--head-dim", "12"}, "head_dim"},
      {{"bench", "--sparsity", "1"}, "--sparsity: got 1, allowed 0 to 0.9999"},
      {{"bench", "--seqlen", "abc"}, "--seqlen"},
      {{"bench", "--causal", "maybe"}, "--causal: got maybe, allowed no|yes"},
      {{"bench", "--repeat", "0"}, "--repeat"},
      {{"bench", "--pattern", "star:1"}, "sliding_window:LEFT,RIGHT"},
      {{"bench", "--json", "--csv"}, "cannot both go to stdout"},
      {{"bench", "--json", "/no/such/folder/b.json"}, "/no/such/folder"},
      {{"bench", "--compare", Path("text.npy")}, "not what `sagectl bench --json` writes"},
      {{"bench", "--compare", Path("text.npy"), "--json"}, "give --json and --csv a file"},
  });
}

}  // namespace
}  // namespace sage::testing
