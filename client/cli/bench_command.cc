// sagectl bench: how fast a server answers, over a grid of problems.

#include <algorithm>
#include <iostream>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"
#include "client/cli/bench/baseline.h"
#include "client/cli/bench/grid.h"
#include "client/cli/bench/measurement.h"
#include "client/cli/bench/plot.h"
#include "client/cli/bench/report.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/generated_inputs.h"
#include "client/cli/mask_pattern_option.h"
#include "client/cli/option_checks.h"
#include "client/cli/problem_text.h"
#include "client/cli/progress_bar.h"
#include "client/cli/report_file.h"
#include "client/cli/server_options.h"

namespace sage::cli {
namespace {

struct BenchOptions {
  ServerOptions server;
  BenchGrid grid;
  std::vector<std::string> causal;    // "no", "yes"
  std::vector<std::string> resident;  // likewise
  MeasureOptions measure;
  ReportPath json;
  ReportPath csv;
  std::string plot_folder;
  std::string baseline;
};

// About how long a case takes, in arbitrary units, for the time that is left: computing what is not
// skipped, and moving q, k, v and the output.
double Effort(const GeneratedCase& generated) {
  const GeneratedShape& shape = generated.shape;
  const double elements = static_cast<double>(shape.batch * shape.num_heads_q) *
                          static_cast<double>(shape.seqlen_q * shape.head_dim);
  constexpr double kOperationsPerElementMoved = 400;
  return elements *
         (static_cast<double>(shape.seqlen_k) * shape.density + kOperationsPerElementMoved);
}

// Measures all cases; those that the server refuses have its answer. Only a case that cannot be
// made of the options is an error (INVALID_ARGUMENT).
absl::StatusOr<std::vector<Measurement>> MeasureAll(Client* client, const BenchOptions& options,
                                                    const std::vector<GeneratedCase>& cases) {
  const double calls =
      options.measure.warmup + options.measure.repeat + (options.measure.verify ? 1 : 0);
  double all = 0;
  for (const GeneratedCase& generated : cases) all += Effort(generated);
  double before = 0;
  ProgressBar bar;
  bar.Update(0, "");
  std::vector<Measurement> measurements;
  std::optional<ProblemInputs> inputs;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const GeneratedCase& generated = cases[i];
    if (inputs && generated.SameTensors(cases[i - 1])) {
      if (absl::Status status =
              ChangeOptions(generated.shape, generated.problem_options(), &*inputs);
          !status.ok()) {
        return status;
      }
    } else {
      inputs.reset();  // before the next ones take as much memory
      absl::StatusOr<ProblemInputs> made =
          GenerateInputs(generated.shape, generated.problem_options());
      if (!made.ok()) return made.status();
      inputs = *std::move(made);
    }
    inputs->problem.precision = generated.precision;
    const double effort = Effort(generated);
    double done = 0;
    measurements.push_back(Measure(client, generated, *inputs, options.measure, [&] {
      done += effort / calls;
      bar.Update((before + done) / all,
                 absl::StrFormat("case %d of %d: %s %s", i + 1, cases.size(),
                                 ShapeName(inputs->problem), generated.mask_name()));
    }));
    before += effort;
    if (absl::IsUnavailable(measurements.back().status)) break;
  }
  return measurements;
}

// Prints what went wrong and gives the exit code.
int Judge(const std::vector<Measurement>& measurements) {
  int exit_code = kSuccess;
  for (const Measurement& measurement : measurements) {
    const std::string name = absl::StrFormat("%s %s %s", measurement.name(),
                                             std::string(Name(measurement.problem.precision)),
                                             measurement.generated.mask_name());
    if (!measurement.status.ok()) {
      exit_code =
          Fail({measurement.status.code(),
                absl::StrFormat("%s: %s", name, std::string(measurement.status.message()))});
    }
    if (!measurement.verdict) continue;
    for (const std::string& fault : measurement.verdict->faults) {
      std::cerr << "sagectl: verification failed: " << name << ": " << fault << '\n';
      exit_code = kFailure;
    }
  }
  return exit_code;
}

int RunBench(const BenchOptions& options) {
  if (absl::Status status = CheckReports({options.json, options.csv}); !status.ok()) {
    return RefuseUsage(status);
  }
  std::optional<nlohmann::ordered_json> baseline;
  if (!options.baseline.empty()) {
    if (options.json == kStdout || options.csv == kStdout) {
      return RefuseUsage(absl::InvalidArgumentError(
          "--compare prints a table; give --json and --csv a file to write to"));
    }
    absl::StatusOr<nlohmann::ordered_json> read = ReadBaseline(options.baseline);
    if (!read.ok()) return RefuseUsage(read.status());
    baseline = *std::move(read);
  }
  absl::StatusOr<std::unique_ptr<Client>> client = Connect(options.server);
  if (!client.ok()) return RefuseUsage(client.status());
  absl::StatusOr<v1::ServerInfo> info = (*client)->GetInfo();
  if (!info.ok()) return Fail(info.status());
  absl::StatusOr<std::vector<Measurement>> measurements =
      MeasureAll(client->get(), options, Cases(options.grid));
  if (!measurements.ok()) return RefuseUsage(measurements.status());

  const BenchRun run = {.target = (*client)->options().target,
                        .server = *std::move(info),
                        .options = options.measure,
                        .seed = options.grid.seed,
                        .measurements = *std::move(measurements)};
  const nlohmann::ordered_json json = BenchJson(run);
  absl::Status written;
  if (!options.json.empty()) written.Update(WriteReport(options.json, json.dump(2) + '\n'));
  if (!options.csv.empty()) written.Update(WriteReport(options.csv, BenchCsv(run)));
  if (!options.plot_folder.empty())
    written.Update(WritePlots(run.measurements, options.plot_folder));
  if (options.json != kStdout && options.csv != kStdout) {
    PrintBenchTables(run, std::cout);
    if (baseline) {
      std::cout << '\n';
      PrintChanges(*baseline, json, std::cout);
    }
  }
  if (!written.ok()) return Fail(written);
  return Judge(run.measurements);
}

void AddGridOptions(CLI::App* command, BenchOptions* options) {
  const std::string group = "Grid (comma-separated values; every combination is measured)";
  BenchGrid* grid = &options->grid;
  const auto add = [&](const char* name, auto* values, const char* help) {
    return command->add_option(name, *values, help)->delimiter(',')->group(group);
  };
  add("--batch", &grid->batches, "Batch entries [1]");
  add("--heads", &grid->heads, "Query heads [4]");
  command->add_option("--kv-heads", grid->num_heads_kv, "Key and value heads [as many as --heads]")
      ->group(group);
  add("--seqlen", &grid->seqlens, "Sq and Sk [1024,2048,4096]");
  add("--head-dim", &grid->head_dims, "D [128]");
  add("--sparsity", &grid->sparsities, "Shares of skipped blocks in random masks per head [0]")
      ->check(Between("0", "0.9999"));
  command
      ->add_option("--pattern", grid->patterns,
                   std::string("Mask by formula, repeatable: ") + kMaskPatternForms)
      ->type_name("PATTERN")
      ->allow_extra_args(false)  // one value a use
      ->group(group);
  AddPrecisionOption(command, &grid->precisions);
  command->get_option("--precision")->group(group);
  const auto add_choice = [&](const char* name, std::vector<std::string>* words, const char* help) {
    CLI::Option* choice = add(name, words, help);
    TakeWords<std::string>(choice, {{"no", "no"}, {"yes", "yes"}});
    choice->expected(0, 2)->default_str("yes");
  };
  add_choice(
      "--causal", &options->causal,
      "Query i sees keys j <= i only; both are measured for no,yes; without a value: yes [no]");
  add_choice(
      "--resident", &options->resident,
      "Put K and V at the server first, as for many requests over the same keys; likewise [no]");
  AddDTypeOption(command, &grid->dtypes);
  command->get_option("--dtype")->group(group);
  AddLayoutOption(command, &grid->layout);
  command->get_option("--layout")->group(group);
  command->add_option("--seed", grid->seed, "Of inputs, masks and rows verified [0]")->group(group);
}

}  // namespace

void AddBenchCommand(CLI::App* app, int* exit_code) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command =
      app->add_subcommand("bench", "Measure a server over a grid of shapes, masks and precisions");
  AddServerOptions(command, &options->server);
  AddGridOptions(command, options.get());
  command->add_option("--warmup", options->measure.warmup, "Calls before those that count [2]")
      ->check(ZeroAndMore());
  command->add_option("--repeat", options->measure.repeat, "Calls that count [10]")
      ->check(AboveZero());
  command->add_flag("--verify", options->measure.verify,
                    "Hold an answer of each case against the float64 reference: about 80 rows a "
                    "head, all where that is quick");
  AddReportOption(command, "--json", &options->json);
  AddReportOption(command, "--csv", &options->csv);
  command
      ->add_option("--plot", options->plot_folder,
                   "Folder for SVG figures: TOPS against sequence length, and stages")
      ->type_name("FOLDER");
  command
      ->add_option("--compare", options->baseline,
                   "Show changes against this file, written by --json before")
      ->type_name("FILE");
  command->footer(
      "Figures are medians; +- is half the distance between the quartiles. call is from call to\n"
      "completion at the client, kernel the server's attention kernels; TOPS count skipped blocks "
      "as\n"
      "done; GB/s is payload both ways over the call. Stages of a request overlap.\n"
      "Examples:\n"
      "  sagectl bench --seqlen 1024,4096,16384 --sparsity 0,0.5,0.75 --plot figures\n"
      "  sagectl bench --heads 32 --head-dim 64,128 --precision qk_int8_pv_fp16,fp16 \\\n"
      "                --causal no,yes --resident no,yes --verify --json before.json\n"
      "  sagectl bench --pattern sliding_window:8,0 --pattern sink_window:2,8 --compare "
      "before.json");
  command->callback([options, exit_code] {
    const auto choose = [](const std::vector<std::string>& words, std::vector<bool>* values) {
      if (words.empty()) return;
      values->clear();
      for (const std::string& word : words) values->push_back(word == "yes");
    };
    choose(options->causal, &options->grid.causal);
    choose(options->resident, &options->grid.resident_kv);
    *exit_code = RunBench(*options);
  });
}

}  // namespace sage::cli
