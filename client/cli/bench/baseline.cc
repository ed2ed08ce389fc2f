#include "client/cli/bench/baseline.h"

#include <cstddef>
#include <fstream>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/problem_text.h"
#include "client/cli/table.h"

namespace sage::cli {
namespace {

using Json = nlohmann::ordered_json;

// What makes two cases the same.
std::string Key(const Json& entry) {
  std::string key = absl::StrCat(entry.at("mask").get<std::string>(), " ",
                                 entry.at("resident_kv").get<bool>() ? "resident" : "");
  const Json problem = ProblemJson({});
  for (const auto& [name, value] : problem.items()) {
    absl::StrAppend(&key, " ", entry.at(name).dump());
  }
  return key;
}

struct Times {
  double median;
  double q1;
  double q3;
};

Times TimesOf(const Json& entry, const char* stage) {
  const Json& spread = entry.at("seconds").at(stage);
  return {spread.at("median").get<double>(), spread.at("q1").get<double>(),
          spread.at("q3").get<double>()};
}

std::vector<std::string> ChangeColumns(const Json& before, const Json& now, const char* stage) {
  const Times old_times = TimesOf(before, stage);
  const Times new_times = TimesOf(now, stage);
  const double change = 100 * (new_times.median / old_times.median - 1);
  const char* mark = new_times.q3 < old_times.q1   ? " faster"
                     : new_times.q1 > old_times.q3 ? " slower"
                                                   : "       ";
  return {absl::StrFormat("%.3f", old_times.median * 1e3),
          absl::StrFormat("%.3f", new_times.median * 1e3),
          absl::StrFormat("%+.1f%%%s", change, mark)};
}

std::string ShapeKey(const Json& entry) {
  const auto number = [&entry](const char* name) { return entry.at(name).get<std::int64_t>(); };
  AttentionProblem problem;
  problem.batch = number("batch");
  problem.num_heads_q = number("num_heads_q");
  problem.num_heads_kv = number("num_heads_kv");
  problem.seqlen_q = number("seqlen_q");
  problem.seqlen_k = number("seqlen_k");
  problem.head_dim = number("head_dim");
  problem.is_causal = entry.at("is_causal").get<bool>();
  problem.dtype = ParseDType(entry.at("dtype").get<std::string>()).value_or(DType::kFloat16);
  problem.layout = ParseLayout(entry.at("layout").get<std::string>()).value_or(Layout::kHnd);
  return ShapeName(problem) + (entry.at("resident_kv").get<bool>() ? " resident" : "");
}

}  // namespace

absl::StatusOr<Json> ReadBaseline(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  try {
    Json run = Json::parse(file);
    if (run.at("benchmark") != "sagectl bench" || run.at("format") != 1) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": of another benchmark or format"));
    }
    // Touches all that PrintChanges() reads.
    for (const Json& entry : run.at("cases")) {
      Key(entry);
      ShapeKey(entry);
      if (entry.contains("error")) continue;
      TimesOf(entry, "wall");
      TimesOf(entry, "kernel");
    }
    return run;
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not what `sagectl bench --json` writes: ", error.what()));
  }
}

void PrintChanges(const Json& before, const Json& now, std::ostream& out) {
  std::map<std::string, const Json*> old_cases;
  for (const Json& entry : before.at("cases")) {
    if (!entry.contains("error")) old_cases.emplace(Key(entry), &entry);
  }
  std::vector<std::vector<std::string>> rows = {
      {"against " + before.at("time").get<std::string>(), "precision", "mask", "call before(ms)",
       "now(ms)", "change", "kernel before(ms)", "now(ms)", "change"}};
  std::size_t only_now = 0;
  for (const Json& entry : now.at("cases")) {
    const auto found = old_cases.find(Key(entry));
    if (entry.contains("error") || found == old_cases.end()) {
      ++only_now;
      continue;
    }
    std::vector<std::string>& row = rows.emplace_back();
    row = {ShapeKey(entry), entry.at("precision").get<std::string>(),
           entry.at("mask").get<std::string>()};
    for (const char* stage : {"wall", "kernel"}) {
      for (const std::string& text : ChangeColumns(*found->second, entry, stage)) {
        row.push_back(text);
      }
    }
  }
  PrintTable(rows, out);
  if (only_now > 0) out << only_now << " cases have no counterpart there\n";
}

}  // namespace sage::cli
