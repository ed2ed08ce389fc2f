#include "client/cli/bench/plot.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "client/cli/chart/bar_chart.h"
#include "client/cli/chart/line_chart.h"
#include "client/cli/report_file.h"

namespace sage::cli {
namespace {

using Group = std::vector<const Measurement*>;

std::string GroupName(const Measurement& measurement) {
  const AttentionProblem& problem = measurement.problem;
  std::string heads = absl::StrCat("H", problem.num_heads_q);
  if (problem.num_heads_kv != problem.num_heads_q)
    absl::StrAppend(&heads, "/", problem.num_heads_kv);
  return absl::StrCat("B", problem.batch, " ", heads, " D", problem.head_dim, " ",
                      std::string(Name(problem.dtype)), " ", std::string(Name(problem.precision)),
                      problem.is_causal ? " causal" : "",
                      measurement.generated.resident_kv ? " resident" : "");
}

std::string TopsChart(const std::string& name, const Group& group) {
  std::vector<Series> series;
  std::map<std::string, std::size_t> index;  // of a mask's series
  double most = 0;
  for (const Measurement* measurement : group) {
    const auto [found, is_new] = index.emplace(measurement->generated.mask_name(), series.size());
    if (is_new) series.push_back({found->first, {}});
    series[found->second].points.push_back(
        {static_cast<double>(measurement->problem.seqlen_q), measurement->kernel_tops()});
    most = std::max(most, measurement->kernel_tops());
  }
  double shortest = series.front().points.front().x;
  double longest = shortest;
  for (Series& line : series) {
    std::sort(line.points.begin(), line.points.end(),
              [](const Point& a, const Point& b) { return a.x < b.x; });
    shortest = std::min(shortest, line.points.front().x);
    longest = std::max(longest, line.points.back().x);
  }
  LineChart chart;
  chart.title = "Kernel TOPS: " + name;
  chart.x_label = "sequence length, tokens";
  chart.y_label = "effective TOPS, skipped blocks counted as done";
  chart.x_ticks = PowerOfTwoTicks(shortest, longest);
  chart.y_ticks = LinearTicks(most);
  chart.x_log = true;
  chart.series = std::move(series);
  return Draw(chart);
}

// Waiting is a sum over units that may exceed everything else by far, and the server's total is all
// but the call.
bool IsShown(const std::string& stage) { return stage != "queue" && stage != "total"; }

std::string StagesChart(const std::string& name, const Group& group) {
  BarChart chart;
  chart.title = "Stages: " + name;
  chart.x_label = "median, ms; stages overlap; h2d, prepare, kernel and d2h are sums over units";
  for (const auto& [stage, spread] : group.front()->stages) {
    if (IsShown(stage)) chart.bars.push_back(stage);
  }
  for (const Measurement* measurement : group) {
    BarGroup bars;
    bars.name = absl::StrFormat("S%d %s", measurement->problem.seqlen_q,
                                measurement->generated.mask_name());
    for (const auto& [stage, spread] : measurement->stages) {
      if (IsShown(stage)) bars.values.push_back(spread.median * 1e3);
    }
    chart.groups.push_back(std::move(bars));
  }
  return Draw(chart);
}

}  // namespace

absl::Status WritePlots(const std::vector<Measurement>& measurements, const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat(folder, ": ", error.message()));
  }
  std::map<std::string, Group> groups;
  for (const Measurement& measurement : measurements) {
    if (measurement.status.ok()) groups[GroupName(measurement)].push_back(&measurement);
  }
  for (const auto& [name, group] : groups) {
    const std::string file = absl::StrReplaceAll(name, {{" ", "_"}, {"/", "-"}}) + ".svg";
    absl::Status status = WriteReport(absl::StrCat(folder, "/tops_", file), TopsChart(name, group));
    status.Update(WriteReport(absl::StrCat(folder, "/stages_", file), StagesChart(name, group)));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace sage::cli
