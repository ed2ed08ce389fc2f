// What sagectl bench measures and what it makes of it.
#include <algorithm>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "client/cli/bench/baseline.h"
#include "client/cli/bench/grid.h"
#include "client/cli/bench/measurement.h"
#include "client/cli/bench/plot.h"
#include "client/cli/bench/report.h"
#include "client/cli/report_file.h"
#include "client/cli/stage_times.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/child_process.h"
#include "tests/support/xml_check.h"

namespace sage::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::IsWellFormedXml;
using ::testing::Not;
using testing::ReadFile;
using testing::ScratchFolder;

TEST(SummarizeTest, InterpolatesQuartiles) {
  const Spread odd = Summarize({5, 1, 4, 2, 3});
  EXPECT_EQ(odd.median, 3);
  EXPECT_EQ(odd.q1, 2);
  EXPECT_EQ(odd.q3, 4);
  EXPECT_EQ(odd.min, 1);
  EXPECT_EQ(odd.max, 5);
  const Spread even = Summarize({4, 3, 2, 1});
  EXPECT_EQ(even.median, 2.5);
  EXPECT_EQ(even.q1, 1.75);
  const Spread one = Summarize({7});
  EXPECT_EQ(one.median, 7);
  EXPECT_EQ(one.q3, 7);
}

TEST(GridTest, CombinesEverythingOnce) {
  BenchGrid grid;
  grid.batches = {1, 2};
  grid.heads = {4};
  grid.num_heads_kv = 2;
  grid.seqlens = {128, 256};
  grid.head_dims = {64, 128};
  grid.dtypes = {DType::kFloat16, DType::kBFloat16};
  grid.sparsities = {0, 0.5};
  grid.patterns = {"band:0,1"};
  grid.causal = {false, true};
  grid.resident_kv = {false, true};
  grid.precisions = {Precision::kQkInt8PvFp16, Precision::kFp16};
  const std::vector<GeneratedCase> cases = Cases(grid);
  EXPECT_EQ(cases.size(), 2U * 2 * 2 * 2 * 3 * 2 * 2 * 2);
  std::set<std::string> names;
  int changes_of_tensors = 0;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const GeneratedCase& c = cases[i];
    EXPECT_EQ(c.shape.num_heads_kv, 2);
    std::ostringstream name;
    name << c.shape.batch << ' ' << c.shape.seqlen_q << ' ' << c.shape.head_dim << ' '
         << Name(c.dtype) << ' ' << c.mask_name() << ' ' << c.is_causal << ' ' << Name(c.precision)
         << ' ' << c.resident_kv;
    names.insert(name.str());
    if (i > 0 && !c.SameTensors(cases[i - 1])) ++changes_of_tensors;
  }
  EXPECT_EQ(names.size(), cases.size());
  EXPECT_EQ(changes_of_tensors, 2 * 2 * 2 * 2 - 1);  // made once each
}

TEST(GridTest, IsDenseWhereNoMaskIsAskedFor) {
  const std::vector<GeneratedCase> cases = Cases({});
  ASSERT_EQ(cases.size(), 3U);
  EXPECT_EQ(cases[0].mask_name(), "sparsity 0");
  EXPECT_EQ(cases[0].shape.density, 1);
}

// A measurement whose stages all took `seconds`, with quartiles 10% around.
Measurement Made(std::int64_t seqlen, double sparsity, double seconds) {
  BenchGrid grid;
  grid.seqlens = {seqlen};
  grid.sparsities = {sparsity};
  Measurement measurement;
  measurement.generated = Cases(grid).front();
  AttentionProblem& problem = measurement.problem;
  problem.batch = 1;
  problem.num_heads_q = problem.num_heads_kv = 4;
  problem.seqlen_q = problem.seqlen_k = seqlen;
  problem.head_dim = 128;
  measurement.block_density = 1 - sparsity;
  measurement.bytes_in = 3000;
  measurement.bytes_out = 1000;
  for (const StageTime& stage : StageTimes({})) {
    measurement.stages.emplace_back(
        stage.name, Spread{seconds, 0.9 * seconds, 1.1 * seconds, seconds / 2, 2 * seconds});
  }
  return measurement;
}

BenchRun MadeRun(double seconds) {
  BenchRun run;
  run.target = "host:1";
  for (const std::int64_t seqlen : {512, 1024}) {
    for (const double sparsity : {0.0, 0.5})
      run.measurements.push_back(Made(seqlen, sparsity, seconds));
  }
  Measurement refused = Made(2048, 0, seconds);
  refused.stages.clear();
  refused.status = absl::UnimplementedError("not, \"here\"");
  run.measurements.push_back(refused);
  return run;
}

TEST(MeasurementTest, CountsSkippedBlocksAsDone) {
  const Measurement measurement = Made(1024, 0.5, 0.25);
  EXPECT_DOUBLE_EQ(measurement.kernel_tops(), 4.0 * 4 * 1024 * 1024 * 128 / 0.25 / 1e12);
  EXPECT_DOUBLE_EQ(measurement.gb_per_second(), 4000 / 0.25 / 1e9);
}

TEST(BenchReportTest, JsonHasFiguresOrTheError) {
  const auto json = nlohmann::json::parse(BenchJson(MadeRun(0.5)).dump());
  EXPECT_EQ(json["benchmark"], "sagectl bench");
  ASSERT_EQ(json["cases"].size(), 5U);
  EXPECT_EQ(json["cases"][1]["mask"], "sparsity 0.5");
  EXPECT_EQ(json["cases"][1]["seconds"]["kernel"]["median"], 0.5);
  EXPECT_EQ(json["cases"][4]["error"]["code"], "UNIMPLEMENTED");
  EXPECT_FALSE(json["cases"][4].contains("seconds"));
}

TEST(BenchReportTest, CsvHasAsManyFieldsInEveryLine) {
  std::istringstream csv(BenchCsv(MadeRun(0.5)));
  std::string names;
  std::getline(csv, names);
  EXPECT_THAT(names, AllOf(HasSubstr("batch,"), HasSubstr(",kernel_median_seconds,")));
  int lines = 0;
  for (std::string line; std::getline(csv, line); ++lines) {
    bool quoted = false;
    std::ptrdiff_t commas = 0;
    for (const char c : line) {
      quoted ^= c == '"';
      commas += c == ',' && !quoted;
    }
    EXPECT_EQ(commas, std::count(names.begin(), names.end(), ',')) << line;
  }
  EXPECT_EQ(lines, 5);
}

TEST(BenchReportTest, QuotesFieldsOfCsv) {
  EXPECT_EQ(CsvLine({"a", "", "b,c", "d\"e"}), "a,,\"b,c\",\"d\"\"e\"\n");
  EXPECT_EQ(CsvLine({"", ""}), ",\n");
  EXPECT_EQ(CsvNumber(0.1), "0.1");
}

TEST(BenchReportTest, TableShowsRefusedCases) {
  std::ostringstream table;
  PrintBenchTables(MadeRun(0.5), table);
  EXPECT_THAT(table.str(), AllOf(HasSubstr("500.000"), HasSubstr("UNIMPLEMENTED"),
                                 HasSubstr("10.0%"), HasSubstr("median ms by stage")));
}

TEST(BaselineTest, MarksChangesOutsideOfTheQuartiles) {
  std::ostringstream same;
  PrintChanges(BenchJson(MadeRun(0.5)), BenchJson(MadeRun(0.51)), same);
  EXPECT_THAT(same.str(), AllOf(HasSubstr("+2.0%"), Not(HasSubstr("slower")),
                                HasSubstr("1 cases have no counterpart")));
  std::ostringstream slower;
  PrintChanges(BenchJson(MadeRun(0.5)), BenchJson(MadeRun(0.75)), slower);
  EXPECT_THAT(slower.str(), HasSubstr("+50.0% slower"));
  std::ostringstream faster;
  PrintChanges(BenchJson(MadeRun(0.5)), BenchJson(MadeRun(0.25)), faster);
  EXPECT_THAT(faster.str(), HasSubstr("-50.0% faster"));
}

TEST(BaselineTest, ReadsWhatIsWrittenAndNothingElse) {
  const ScratchFolder folder;
  const std::string path = folder.File("run.json");
  ASSERT_TRUE(WriteReport(path, BenchJson(MadeRun(0.5)).dump()).ok());
  EXPECT_TRUE(ReadBaseline(path).ok());
  for (const char* text :
       {" ", "{", "[]", R"({"benchmark": "other", "format": 1})",
        R"({"benchmark": "sagectl bench", "format": 1, "cases": [{}]})",
        R"({"benchmark": "sagectl bench", "format": 1, "cases": [{"mask": 3}]})"}) {
    ASSERT_TRUE(WriteReport(path, text).ok());
    EXPECT_THAT(ReadBaseline(path).status().message(), HasSubstr(path)) << text;
  }
  EXPECT_FALSE(ReadBaseline(folder.File("missing")).ok());
}

TEST(PlotTest, WritesBothFiguresOfAGroup) {
  const ScratchFolder folder;
  ASSERT_TRUE(WritePlots(MadeRun(0.5).measurements, folder.File("new/figures")).ok());
  const std::string name = "B1_H4_D128_fp16_qk_int8_pv_fp16.svg";
  const std::string tops = ReadFile(folder.File("new/figures/tops_" + name));
  const std::string stages = ReadFile(folder.File("new/figures/stages_" + name));
  EXPECT_TRUE(IsWellFormedXml(tops));
  EXPECT_THAT(tops, AllOf(HasSubstr(">sparsity 0<"), HasSubstr(">sparsity 0.5<"),
                          HasSubstr(">1024<"), Not(HasSubstr(">2048<"))));
  EXPECT_TRUE(IsWellFormedXml(stages));
  EXPECT_THAT(stages, HasSubstr(">S512 sparsity 0.5<"));
  EXPECT_FALSE(WritePlots(MadeRun(0.5).measurements, "/proc/no/such").ok());
}

}  // namespace
}  // namespace sage::cli
