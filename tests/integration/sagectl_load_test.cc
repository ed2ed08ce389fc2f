// sagectl load against a server in this process.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>

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
  StartFaultyServer();
  UseServer(target());
  faults.attends = 3;
  const Outcome run = Run({"load", "--concurrency", "1", "--count", "10", "--seqlen", "64"});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_THAT(run.out, AllOf(HasSubstr("INTERNAL"), HasSubstr("whole step")));
  EXPECT_THAT(run.err, HasSubstr("3 requests failed"));
}

TEST_F(SagectlWithServerTest, RefusesBadLoads) {
  std::ofstream(Path("text.npy")) << "hello";
  std::ofstream(Path("bad.toml")) << "[[shape]]\nsequence = 5\n";
  ExpectRefused({
      {{"load", "--concurrency", "0"}, "--concurrency"},
      {{"load", "--concurrency", "2", "--rate", "5"}, "--concurrency excludes --rate"},
      {{"load", "--rate", "-5"}, "--rate: got -5, allowed above 0"},
      {{"load", "--duration", "soon"}, "for instance 10s"},
      {{"load", "--duration", "0s"}, "longer than 0"},
      {{"load", "--slo", "fast"}, "for instance p99=50ms"},
      {{"load", "--slo", "p99=1s", "--rate", "1,2"}, "give one --rate"},
      {{"load", "--head-dim", "12"}, "head_dim"},
      {{"load", "--mix", Path("missing.toml")}, "there is no such file"},
      {{"load", "--mix", Path("bad.toml")}, "bad.toml:2: unknown key 'sequence'; known: batch"},
      {{"load", "--mix", Path("text.npy")}, "text.npy:1"},
      {{"load", "--mix", Path("bad.toml"), "--seqlen", "64"}, "--seqlen excludes --mix"},
  });
}

}  // namespace
}  // namespace sage::testing
