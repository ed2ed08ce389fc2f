#include "client/cli/bench/report.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/problem_text.h"
#include "client/cli/report_file.h"
#include "client/cli/stage_times.h"
#include "client/cli/table.h"

namespace sage::cli {
namespace {

std::string Milliseconds(double seconds) { return absl::StrFormat("%.3f", seconds * 1e3); }

// Half of the distance between the quartiles, over the median.
std::string SpreadText(const Spread& spread) {
  if (spread.median == 0) return "-";
  return absl::StrFormat("%.1f%%", 100 * (spread.q3 - spread.q1) / 2 / spread.median);
}

std::vector<std::string> CaseColumns(const Measurement& measurement) {
  return {measurement.name(), std::string(Name(measurement.problem.precision)),
          measurement.generated.mask_name()};
}

void Append(std::vector<std::string> more, std::vector<std::string>* row) {
  for (std::string& text : more) row->push_back(std::move(text));
}

nlohmann::ordered_json SpreadJson(const Spread& spread) {
  return {{"median", spread.median},
          {"q1", spread.q1},
          {"q3", spread.q3},
          {"min", spread.min},
          {"max", spread.max}};
}

nlohmann::ordered_json CaseJson(const Measurement& measurement) {
  nlohmann::ordered_json entry = ProblemJson(measurement.problem);
  entry["mask"] = measurement.generated.mask_name();
  entry["resident_kv"] = measurement.generated.resident_kv;
  if (!measurement.status.ok()) {
    entry["error"] = {{"code", absl::StatusCodeToString(measurement.status.code())},
                      {"message", std::string(measurement.status.message())}};
    return entry;
  }
  entry["block_density"] = measurement.block_density;
  entry["bytes_in"] = measurement.bytes_in;
  entry["bytes_out"] = measurement.bytes_out;
  entry["kernel_tops"] = JsonNumber(measurement.kernel_tops());
  entry["call_tops"] = JsonNumber(measurement.call_tops());
  entry["gb_per_second"] = JsonNumber(measurement.gb_per_second());
  for (const auto& [name, spread] : measurement.stages) entry["seconds"][name] = SpreadJson(spread);
  if (measurement.verdict) entry["verification"] = VerdictJson(*measurement.verdict);
  return entry;
}

}  // namespace

void PrintBenchTables(const BenchRun& run, std::ostream& out) {
  std::vector<std::vector<std::string>> calls = {{"shape", "precision", "mask", "density",
                                                  "call(ms)", "+-", "kernel(ms)", "+-",
                                                  "kernel TOPS", "call TOPS", "GB/s", "check"}};
  std::vector<std::vector<std::string>> stages = {{"median ms by stage", "precision", "mask"}};
  for (const StageTime& stage : StageTimes({})) stages.front().emplace_back(stage.name);
  for (const Measurement& measurement : run.measurements) {
    std::vector<std::string>& call = calls.emplace_back(CaseColumns(measurement));
    if (!measurement.status.ok()) {
      Append({"-", absl::StatusCodeToString(measurement.status.code()), "-", "-", "-", "-", "-",
              "-", "-"},
             &call);
      continue;
    }
    const Spread& wall = measurement.stage("wall");
    const Spread& kernel = measurement.stage("kernel");
    Append({absl::StrFormat("%.3f", measurement.block_density), Milliseconds(wall.median),
            SpreadText(wall), Milliseconds(kernel.median), SpreadText(kernel),
            absl::StrFormat("%.4g", measurement.kernel_tops()),
            absl::StrFormat("%.4g", measurement.call_tops()),
            absl::StrFormat("%.2f", measurement.gb_per_second()),
            !measurement.verdict            ? "-"
            : measurement.verdict->passed() ? "ok"
                                            : "FAILED"},
           &call);
    std::vector<std::string>& row = stages.emplace_back(CaseColumns(measurement));
    for (const auto& [name, spread] : measurement.stages)
      row.push_back(Milliseconds(spread.median));
  }
  PrintTable(calls, out);
  if (stages.size() == 1) return;
  out << '\n';
  PrintTable(stages, out);
}

nlohmann::ordered_json BenchJson(const BenchRun& run) {
  nlohmann::ordered_json root = {{"benchmark", "sagectl bench"},
                                 {"format", 1},
                                 {"time", UtcNow()},
                                 {"server",
                                  {{"target", run.target},
                                   {"server_id", run.server.server_id()},
                                   {"version", run.server.version()},
                                   {"backend", run.server.backend()}}},
                                 {"warmup", run.options.warmup},
                                 {"repeat", run.options.repeat},
                                 {"seed", run.seed},
                                 {"cases", nlohmann::ordered_json::array()}};
  nlohmann::ordered_json& devices = root["server"]["devices"] = nlohmann::ordered_json::array();
  for (const v1::DeviceInfo& device : run.server.devices()) {
    devices.push_back({{"name", device.name()}, {"kernel_path", device.kernel_path()}});
  }
  for (const Measurement& measurement : run.measurements) {
    root["cases"].push_back(CaseJson(measurement));
  }
  return root;
}

std::string BenchCsv(const BenchRun& run) {
  std::vector<std::string> names;
  const nlohmann::ordered_json problem = ProblemJson({});
  for (const auto& [name, value] : problem.items()) names.push_back(name);
  const std::size_t problem_columns = names.size();
  Append({"mask", "resident_kv", "error", "block_density", "bytes_in", "bytes_out", "kernel_tops",
          "call_tops", "gb_per_second"},
         &names);
  for (const StageTime& stage : StageTimes({})) {
    for (const char* figure : {"median", "q1", "q3", "min", "max"}) {
      names.push_back(absl::StrCat(stage.name, "_", figure, "_seconds"));
    }
  }
  Append({"relative_l2", "passed"}, &names);
  std::string csv = CsvLine(names);
  for (const Measurement& measurement : run.measurements) {
    std::vector<std::string> fields;
    fields.reserve(problem_columns);
    for (const auto& value : ProblemJson(measurement.problem)) {
      fields.push_back(value.is_string() ? value.get<std::string>() : value.dump());
    }
    fields.push_back(measurement.generated.mask_name());
    fields.emplace_back(measurement.generated.resident_kv ? "true" : "false");
    if (measurement.status.ok()) {
      Append({"", CsvNumber(measurement.block_density), absl::StrCat(measurement.bytes_in),
              absl::StrCat(measurement.bytes_out), CsvNumber(measurement.kernel_tops()),
              CsvNumber(measurement.call_tops()), CsvNumber(measurement.gb_per_second())},
             &fields);
      for (const auto& [name, spread] : measurement.stages) {
        for (const double value : {spread.median, spread.q1, spread.q3, spread.min, spread.max}) {
          fields.push_back(CsvNumber(value));
        }
      }
    } else {
      fields.push_back(measurement.status.ToString());
    }
    if (measurement.verdict) {
      Append({CsvNumber(measurement.verdict->comparison.out.relative_l2),
              measurement.verdict->passed() ? "true" : "false"},
             &fields);
    }
    fields.resize(names.size());
    csv += CsvLine(fields);
  }
  return csv;
}

}  // namespace sage::cli
