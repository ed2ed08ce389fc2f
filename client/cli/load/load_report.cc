#include "client/cli/load/load_report.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cli/problem_text.h"
#include "client/cli/report_file.h"
#include "client/cli/table.h"

namespace sage::cli {
namespace {

using Json = nlohmann::ordered_json;

double Seconds(Nanoseconds time) { return std::chrono::duration<double>(time).count(); }

// Of the client's throughput from the servers', in percent of these.
std::optional<double> DifferencePercent(const MeasuredStep& step) {
  const std::optional<double> server = step.server_ok_per_second();
  if (!server || *server == 0) return std::nullopt;
  return 100 * (step.client_ok_per_second() / *server - 1);
}

Json HistogramJson(const LatencyHistogram& histogram) {
  Json json = {{"min", Seconds(histogram.min())}, {"mean", Seconds(histogram.mean())}};
  for (const auto& [name, q] : kQuantiles) json[name] = Seconds(histogram.Quantile(q));
  json["max"] = Seconds(histogram.max());
  return json;
}

Json MixJson(const std::vector<MixEntry>& mix) {
  Json shapes = Json::array();
  for (const MixEntry& entry : mix) {
    const GeneratedCase& generated = entry.generated;
    shapes.push_back({{"name", entry.name},
                      {"weight", entry.weight},
                      {"batch", generated.shape.batch},
                      {"num_heads_q", generated.shape.num_heads_q},
                      {"num_heads_kv", generated.shape.num_heads_kv},
                      {"seqlen_q", generated.shape.seqlen_q},
                      {"seqlen_k", generated.shape.seqlen_k},
                      {"head_dim", generated.shape.head_dim},
                      {"layout", Name(generated.layout)},
                      {"dtype", Name(generated.dtype)},
                      {"precision", Name(generated.precision)},
                      {"is_causal", generated.is_causal},
                      {"mask", generated.mask_name()},
                      {"resident_kv", generated.resident_kv}});
  }
  return shapes;
}

Json ServersJson(const MeasuredStep& step) {
  Json servers = Json::array();
  for (const ServerCounts& counts : step.servers) {
    if (!counts.status.ok()) {
      servers.push_back({{"target", counts.target}, {"error", counts.status.ToString()}});
      continue;
    }
    servers.push_back({{"target", counts.target},
                       {"seconds", counts.seconds},
                       {"ok", counts.ok},
                       {"failed", counts.failed},
                       {"ok_per_second", counts.ok_per_second()},
                       {"bytes_in", counts.bytes_in},
                       {"bytes_out", counts.bytes_out}});
  }
  return servers;
}

Json StepJson(const MeasuredStep& measured) {
  const StepResult& result = measured.result;
  const LoadStep& step = result.step;
  Json json;
  if (step.concurrency) {
    json = {{"loop", "closed"}, {"concurrency", *step.concurrency}};
  } else {
    json = {{"loop", "open"},
            {"arrivals", step.arrivals == ArrivalKind::kPoisson ? "poisson" : "constant"},
            {"rate", step.rate}};
  }
  json["ramp_seconds"] = Seconds(step.ramp);
  json["seconds"] = result.seconds();
  json["stopped_early"] = result.stopped;
  json["ok"] = result.ok;
  json["failed"] = result.failed;
  json["ok_per_second"] = result.ok_per_second();
  json["latency_seconds"] = HistogramJson(result.latency);
  json["service_seconds"] = HistogramJson(result.service);
  json["server_total_seconds"] = HistogramJson(result.server);
  json["kernel_seconds_sum"] = result.kernel_seconds;
  json["max_send_delay_seconds"] = Seconds(result.max_send_delay);
  json["errors"] = Json::object();
  for (const auto& [code, errors] : result.errors) {
    json["errors"][code] = {{"count", errors.count}, {"example", errors.example}};
  }
  if (measured.goals_held) json["goals_held"] = *measured.goals_held;
  json["whole_step"] = {{"seconds", measured.seconds_between_readings},
                        {"ok", result.all_ok},
                        {"failed", result.all_failed},
                        {"ok_per_second", measured.client_ok_per_second()},
                        {"bytes_in", result.all_bytes_in},
                        {"bytes_out", result.all_bytes_out}};
  json["servers"] = ServersJson(measured);
  const std::optional<double> difference = DifferencePercent(measured);
  json["difference_percent"] = difference ? Json(*difference) : Json(nullptr);
  json["intervals"] = Json::array();
  for (const LoadInterval& interval : result.intervals) {
    json["intervals"].push_back({{"begin_seconds", Seconds(interval.begin)},
                                 {"seconds", Seconds(interval.length)},
                                 {"ok", interval.ok},
                                 {"failed", interval.failed},
                                 {"p50_seconds", Seconds(interval.p50)},
                                 {"p99_seconds", Seconds(interval.p99)},
                                 {"in_flight", interval.in_flight}});
  }
  return json;
}

}  // namespace

double MeasuredStep::client_ok_per_second() const {
  return seconds_between_readings > 0
             ? static_cast<double>(result.all_ok) / seconds_between_readings
             : 0;
}

std::optional<double> MeasuredStep::server_ok_per_second() const {
  double sum = 0;
  for (const ServerCounts& counts : servers) {
    if (!counts.status.ok()) return std::nullopt;
    sum += counts.ok_per_second();
  }
  return sum;
}

std::string LoadName(const LoadStep& step) {
  if (step.concurrency) return absl::StrCat("concurrency ", *step.concurrency);
  return absl::StrFormat(
      "%s %.4g/s", step.arrivals == ArrivalKind::kPoisson ? "poisson" : "constant", step.rate);
}

std::string DurationText(Nanoseconds duration) {
  const double seconds = Seconds(duration);
  if (seconds >= 1) return absl::StrFormat("%.3g s", seconds);
  if (seconds >= 1e-3) return absl::StrFormat("%.3g ms", seconds * 1e3);
  return absl::StrFormat("%.3g us", seconds * 1e6);
}

TextRows StepRows(const LoadRun& run) {
  TextRows rows = {{"load", "ok", "failed", "ok/s"}};
  for (const auto& [name, q] : kQuantiles) rows.front().emplace_back(name);
  rows.front().insert(rows.front().end(), {"max", "server p50", "p99", "sent late"});
  if (!run.goals.empty()) rows.front().emplace_back("goals");
  for (const MeasuredStep& step : run.steps) {
    const StepResult& result = step.result;
    std::vector<std::string>& row = rows.emplace_back();
    row = {LoadName(result.step), absl::StrCat(result.ok), absl::StrCat(result.failed),
           absl::StrFormat("%.1f", result.ok_per_second())};
    for (const auto& [name, q] : kQuantiles)
      row.push_back(DurationText(result.latency.Quantile(q)));
    row.push_back(DurationText(result.latency.max()));
    row.push_back(DurationText(result.server.Quantile(0.5)));
    row.push_back(DurationText(result.server.Quantile(0.99)));
    row.push_back(DurationText(result.max_send_delay));
    if (!run.goals.empty()) row.emplace_back(step.goals_held.value_or(false) ? "held" : "missed");
  }
  return rows;
}

TextRows AgreementRows(const LoadRun& run) {
  TextRows rows = {{"whole step, ramp included", "ok", "ok/s", "payload", "servers: ok", "ok/s",
                    "payload", "difference"}};
  for (const MeasuredStep& step : run.steps) {
    const StepResult& result = step.result;
    std::vector<std::string>& row = rows.emplace_back();
    row = {LoadName(result.step), absl::StrCat(result.all_ok),
           absl::StrFormat("%.1f", step.client_ok_per_second()),
           ByteText(static_cast<double>(result.all_bytes_in + result.all_bytes_out))};
    const std::optional<double> server = step.server_ok_per_second();
    if (!server) {
      row.insert(row.end(), {"?", "?", "?", "?"});
      continue;
    }
    std::int64_t ok = 0;
    std::uint64_t bytes = 0;
    for (const ServerCounts& counts : step.servers) {
      ok += counts.ok;
      bytes += counts.bytes_in + counts.bytes_out;
    }
    const std::optional<double> difference = DifferencePercent(step);
    row.insert(row.end(), {absl::StrCat(ok), absl::StrFormat("%.1f", *server),
                           ByteText(static_cast<double>(bytes)),
                           difference ? absl::StrFormat("%+.2f%%", *difference) : "-"});
  }
  return rows;
}

TextRows ErrorRows(const LoadRun& run) {
  TextRows rows = {{"errors", "code", "count", "first message"}};
  for (const MeasuredStep& step : run.steps) {
    for (const auto& [code, errors] : step.result.errors) {
      rows.push_back(
          {LoadName(step.result.step), code, absl::StrCat(errors.count), errors.example});
    }
  }
  return rows;
}

std::string GoalText(const LoadRun& run) {
  if (!run.highest_rate) return "";
  const std::string goals = absl::StrJoin(
      run.goals, ", ",
      [](std::string* out, const LatencyGoal& goal) { absl::StrAppend(out, goal.text); });
  return *run.highest_rate > 0
             ? absl::StrFormat("highest rate with %s: %.4g/s", goals, *run.highest_rate)
             : absl::StrFormat("no rate was found at which %s holds", goals);
}

void PrintLoadTables(const LoadRun& run, std::ostream& out) {
  PrintTable(StepRows(run), out);
  out << '\n';
  PrintTable(AgreementRows(run), out);
  if (const TextRows errors = ErrorRows(run); errors.size() > 1) {
    out << '\n';
    PrintTable(errors, out);
  }
  if (run.highest_rate) out << '\n' << GoalText(run) << '\n';
}

Json LoadJson(const LoadRun& run) {
  Json json = {{"load_test", "sagectl load"},
               {"format", 1},
               {"time", UtcNow()},
               {"servers", run.targets},
               {"connections", run.connections},
               {"shapes", MixJson(run.mix)}};
  if (run.highest_rate) {
    json["goals"] = Json::array();
    for (const LatencyGoal& goal : run.goals) json["goals"].push_back(goal.text);
    json["highest_rate"] = *run.highest_rate;
  }
  json["steps"] = Json::array();
  for (const MeasuredStep& step : run.steps) json["steps"].push_back(StepJson(step));
  return json;
}

std::string LoadCsv(const LoadRun& run) {
  std::vector<std::string> names = {"loop",    "concurrency", "arrivals", "rate",
                                    "seconds", "ok",          "failed",   "ok_per_second"};
  for (const char* kind : {"latency", "service", "server_total"}) {
    for (const char* figure : {"min", "mean"}) names.push_back(absl::StrCat(kind, "_", figure));
    for (const auto& [name, q] : kQuantiles) names.push_back(absl::StrCat(kind, "_", name));
    names.push_back(absl::StrCat(kind, "_max"));
  }
  for (const char* name :
       {"max_send_delay", "whole_step_ok_per_second", "servers_ok_per_second", "goals_held"}) {
    names.emplace_back(name);
  }
  std::string csv = CsvLine(names);
  for (const MeasuredStep& measured : run.steps) {
    const StepResult& result = measured.result;
    const LoadStep& step = result.step;
    std::vector<std::string> fields =
        step.concurrency
            ? std::vector<std::string>{"closed", absl::StrCat(*step.concurrency), "", ""}
            : std::vector<std::string>{
                  "open", "", step.arrivals == ArrivalKind::kPoisson ? "poisson" : "constant",
                  CsvNumber(step.rate)};
    fields.push_back(CsvNumber(result.seconds()));
    fields.push_back(absl::StrCat(result.ok));
    fields.push_back(absl::StrCat(result.failed));
    fields.push_back(CsvNumber(result.ok_per_second()));
    for (const LatencyHistogram* histogram : {&result.latency, &result.service, &result.server}) {
      fields.push_back(CsvNumber(Seconds(histogram->min())));
      fields.push_back(CsvNumber(Seconds(histogram->mean())));
      for (const auto& [name, q] : kQuantiles) {
        fields.push_back(CsvNumber(Seconds(histogram->Quantile(q))));
      }
      fields.push_back(CsvNumber(Seconds(histogram->max())));
    }
    fields.push_back(CsvNumber(Seconds(result.max_send_delay)));
    fields.push_back(CsvNumber(measured.client_ok_per_second()));
    const std::optional<double> server = measured.server_ok_per_second();
    fields.push_back(server ? CsvNumber(*server) : "");
    fields.emplace_back(!measured.goals_held ? "" : *measured.goals_held ? "true" : "false");
    csv += CsvLine(fields);
  }
  return csv;
}

}  // namespace sage::cli
