#include "client/cli/load/html_report.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/chart/line_chart.h"
#include "client/cli/report_file.h"

namespace sage::cli {
namespace {

constexpr char kStyle[] =
    "body{font-family:sans-serif;color:#303840;margin:2em auto;max-width:70em;padding:0 1em}"
    "table{border-collapse:collapse;margin:1em 0}"
    "th,td{padding:.3em .8em;text-align:right;border-bottom:1px solid #e2e6ea}"
    "th:first-child,td:first-child{text-align:left}"
    "th{color:#5a646e;font-weight:normal}"
    "svg{max-width:100%;height:auto}";

std::string Table(const TextRows& rows) {
  std::string html = "<table>\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const char* cell = i == 0 ? "th" : "td";
    html += "<tr>";
    for (const std::string& text : rows[i]) {
      absl::StrAppend(&html, "<", cell, ">", XmlText(text), "</", cell, ">");
    }
    html += "</tr>\n";
  }
  return html + "</table>\n";
}

double Milliseconds(Nanoseconds time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

// Latency by quantile, a line a step; the axis gives each further nine the same room.
std::string QuantileChart(const LoadRun& run) {
  const auto nines = [](double q) { return -std::log10(1 - q); };
  LineChart chart;
  chart.title = "Latency by percentile";
  chart.x_label = "percentile";
  chart.y_label = "ms";
  for (const auto& [name, q] : kQuantiles) {
    if (q == 0.75 || q == 0.95) continue;  // too near to the next ones to be labelled
    chart.x_ticks.push_back({nines(q), name});
  }
  chart.x_ticks.insert(chart.x_ticks.begin(), {0, "p0"});
  double largest = 0;
  for (const MeasuredStep& step : run.steps) {
    const LatencyHistogram& latency = step.result.latency;
    if (latency.count() == 0) continue;
    Series series{LoadName(step.result.step), {}};
    // Percentiles that so few requests cannot show are left out.
    const double last =
        std::min(chart.x_ticks.back().value, std::log10(static_cast<double>(latency.count())));
    constexpr int kPoints = 120;
    for (int i = 0; i <= kPoints; ++i) {
      const double x = last * i / kPoints;
      const double value = Milliseconds(latency.Quantile(1 - std::pow(10, -x)));
      series.points.push_back({x, value});
      largest = std::max(largest, value);
    }
    chart.series.push_back(std::move(series));
  }
  chart.y_ticks = LinearTicks(largest);
  return Draw(chart);
}

// What is left of a step after its last whole interval is too short to tell anything.
bool TellsSomething(const LoadInterval& interval, const MeasuredStep& step) {
  return interval.length >= std::chrono::milliseconds(500) || step.result.intervals.size() == 1;
}

// One figure of each interval, steps one after the other.
std::string CourseChart(
    const LoadRun& run, const std::string& title, const std::string& unit,
    const std::vector<std::pair<const char*, double (*)(const LoadInterval&)>>& figures) {
  LineChart chart;
  chart.title = title;
  chart.x_label = "seconds from the start, all steps";
  chart.y_label = unit;
  double begin = 0;
  double largest = 0;
  for (const auto& [name, figure] : figures) chart.series.push_back({name, {}});
  for (const MeasuredStep& step : run.steps) {
    double end = begin;
    for (const LoadInterval& interval : step.result.intervals) {
      end = begin + Milliseconds(interval.begin + interval.length) / 1e3;
      if (!TellsSomething(interval, step)) continue;
      for (std::size_t i = 0; i < figures.size(); ++i) {
        const double value = figures[i].second(interval);
        chart.series[i].points.push_back({end, value});
        largest = std::max(largest, value);
      }
    }
    begin = end;
  }
  chart.x_ticks = LinearTicks(begin);
  chart.y_ticks = LinearTicks(largest);
  return Draw(chart);
}

// Latency against what was asked of the server.
std::string LoadChart(const LoadRun& run) {
  const bool closed = run.steps.front().result.step.concurrency.has_value();
  LineChart chart;
  chart.title = "Latency by load";
  chart.x_label = closed ? "requests under way" : "requests a second";
  chart.y_label = "ms";
  double largest_load = 0;
  double largest = 0;
  for (const NamedQuantile& quantile : kQuantiles) {
    if (quantile.q != 0.5 && quantile.q != 0.95 && quantile.q != 0.99) continue;
    Series series{quantile.name, {}};
    for (const MeasuredStep& step : run.steps) {
      const double load = closed ? *step.result.step.concurrency : step.result.step.rate;
      const double value = Milliseconds(step.result.latency.Quantile(quantile.q));
      series.points.push_back({load, value});
      largest_load = std::max(largest_load, load);
      largest = std::max(largest, value);
    }
    std::sort(series.points.begin(), series.points.end(),
              [](const Point& a, const Point& b) { return a.x < b.x; });
    chart.series.push_back(std::move(series));
  }
  chart.x_ticks = LinearTicks(largest_load);
  chart.y_ticks = LinearTicks(largest);
  return Draw(chart);
}

std::string MixTable(const LoadRun& run) {
  TextRows rows = {{"shape", "weight", "B", "Hq", "Hkv", "Sq", "Sk", "D", "type", "layout",
                    "precision", "causal", "mask", "K and V"}};
  for (const MixEntry& entry : run.mix) {
    const GeneratedCase& generated = entry.generated;
    const GeneratedShape& shape = generated.shape;
    rows.push_back({entry.name, absl::StrCat(entry.weight), absl::StrCat(shape.batch),
                    absl::StrCat(shape.num_heads_q), absl::StrCat(shape.num_heads_kv),
                    absl::StrCat(shape.seqlen_q), absl::StrCat(shape.seqlen_k),
                    absl::StrCat(shape.head_dim), std::string(Name(generated.dtype)),
                    std::string(Name(generated.layout)), std::string(Name(generated.precision)),
                    generated.is_causal ? "yes" : "no", generated.mask_name(),
                    generated.resident_kv ? "resident" : "sent"});
  }
  return Table(rows);
}

}  // namespace

std::string LoadHtml(const LoadRun& run) {
  std::string html = absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
      "<title>sagectl load</title>\n<style>",
      kStyle, "</style>\n</head>\n<body>\n<h1>Load test of ",
      XmlText(absl::StrJoin(run.targets, ", ")), "</h1>\n<p>", UtcNow(), ", ", run.connections,
      run.connections == 1 ? " connection" : " connections",
      " to each server. Latency counts from the moment a request was due.</p>\n");
  if (run.highest_rate) absl::StrAppend(&html, "<p>", XmlText(GoalText(run)), "</p>\n");
  absl::StrAppend(&html, "<h2>Steps</h2>\n", Table(StepRows(run)));
  if (run.steps.size() > 1) html += LoadChart(run);
  html += QuantileChart(run);
  html += "<h2>Course</h2>\n";
  html += CourseChart(run, "Requests that ended", "a second",
                      {{"ok",
                        [](const LoadInterval& i) {
                          return static_cast<double>(i.ok) * 1e3 / Milliseconds(i.length);
                        }},
                       {"failed", [](const LoadInterval& i) {
                          return static_cast<double>(i.failed) * 1e3 / Milliseconds(i.length);
                        }}});
  html += CourseChart(run, "Latency", "ms",
                      {{"p50", [](const LoadInterval& i) { return Milliseconds(i.p50); }},
                       {"p99", [](const LoadInterval& i) { return Milliseconds(i.p99); }}});
  absl::StrAppend(&html, "<h2>The client's count beside the servers'</h2>\n",
                  Table(AgreementRows(run)));
  if (const TextRows errors = ErrorRows(run); errors.size() > 1) {
    absl::StrAppend(&html, "<h2>Errors</h2>\n", Table(errors));
  }
  absl::StrAppend(&html, "<h2>Requests</h2>\n", MixTable(run), "</body>\n</html>\n");
  return html;
}

}  // namespace sage::cli
