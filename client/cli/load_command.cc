// sagectl load: how a server holds up under many requests.

#include <algorithm>
#include <atomic>
#include <csignal>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/load/client_environment.h"
#include "client/cli/load/html_report.h"
#include "client/cli/load/latency_goal.h"
#include "client/cli/load/load_report.h"
#include "client/cli/load/load_step.h"
#include "client/cli/load/request_mix.h"
#include "client/cli/load/server_counts.h"
#include "client/cli/mask_pattern_option.h"
#include "client/cli/option_checks.h"
#include "client/cli/report_file.h"
#include "client/cli/server_options.h"
#include "client/cli/status_line.h"

namespace sage::cli {
namespace {

struct LoadOptions {
  ServersOptions servers;
  MixEntry single;  // what is sent where no mix is given
  std::optional<std::int64_t> num_heads_kv;
  double sparsity = 0;
  std::string mix;
  std::vector<int> concurrency;
  std::vector<double> rates;
  ArrivalKind arrivals = ArrivalKind::kPoisson;
  std::vector<std::string> goals;
  std::string duration;
  std::string ramp = "0s";
  std::optional<std::int64_t> count;
  int max_in_flight = LoadStep{}.max_in_flight;
  std::uint64_t seed = 0;
  ReportPath json;
  ReportPath csv;
  ReportPath html;
};

std::atomic<bool> interrupted = false;
static_assert(std::atomic<bool>::is_always_lock_free);  // may be set by a signal's handler

// While it lives, the first SIGINT ends the run early, with its figures; a second one ends the
// program.
class InterruptHandler {
 public:
  InterruptHandler() {
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = true; };
    action.sa_flags = SA_RESETHAND | SA_RESTART;
    sigaction(SIGINT, &action, &before_);
  }
  ~InterruptHandler() { sigaction(SIGINT, &before_, nullptr); }
  InterruptHandler(const InterruptHandler&) = delete;
  InterruptHandler& operator=(const InterruptHandler&) = delete;

 private:
  struct sigaction before_ {};
};

absl::StatusOr<Nanoseconds> ParseSeconds(const char* option, const std::string& text) {
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration) || duration < absl::ZeroDuration() ||
      duration > absl::Hours(24 * 365)) {
    return absl::InvalidArgumentError(absl::StrCat(
        option, " '", text, "': must be a duration, for instance 10s, 500ms or 1m30s"));
  }
  return absl::ToChronoNanoseconds(duration);
}

// The connections of one server.
struct LoadServer {
  std::string target;
  std::vector<std::unique_ptr<Client>> clients;
};

absl::StatusOr<std::vector<LoadServer>> ConnectAll(const ServersOptions& options) {
  std::vector<LoadServer> servers;
  for (const std::string& name : options.servers) {
    LoadServer& server = servers.emplace_back();
    for (int i = 0; i < options.connections; ++i) {
      absl::StatusOr<std::unique_ptr<Client>> client =
          Connect({.server = name,
                   .connections = 1,  // no stripes, which the server counts as requests
                   .timeout_seconds = options.timeout_seconds,
                   .files = options.files});
      if (!client.ok()) return client.status();
      server.target = (*client)->options().target;
      server.clients.push_back(*std::move(client));
    }
  }
  return servers;
}

class LoadTest {
 public:
  // All outlive this.
  LoadTest(const std::vector<LoadServer>& servers, LoadEnvironment* environment,
           std::vector<LatencyGoal> goals)
      : servers_(servers), environment_(*environment) {
    run_.goals = std::move(goals);
  }

  // Runs a step, which is not part of the results yet.
  MeasuredStep Measure(const LoadStep& step, const std::string& progress) {
    const Reading before = Read();
    MeasuredStep measured;
    {
      StatusLine line;
      measured.result = RunStep(step, &environment_, [&](const LiveFigures& figures) {
        if (line.shown()) line.Show(LiveText(step, progress, figures));
      });
    }
    const Reading after = Read();
    measured.seconds_between_readings =
        std::chrono::duration<double>(after.time - before.time).count();
    for (std::size_t i = 0; i < servers_.size(); ++i) {
      measured.servers.push_back(
          CountsBetween(servers_[i].target, before.statistics[i], after.statistics[i]));
    }
    if (!run_.goals.empty()) measured.goals_held = Holds(run_.goals, measured.result);
    return measured;
  }

  const MeasuredStep& Run(const LoadStep& step, const std::string& progress) {
    return run_.steps.emplace_back(Measure(step, progress));
  }

  LoadRun& run() { return run_; }

 private:
  struct Reading {
    std::vector<absl::StatusOr<v1::Statistics>> statistics;  // of each server
    Nanoseconds time{0};                                     // about when they were taken
  };

  Reading Read() const {
    Reading reading;
    const Nanoseconds begin = environment_.Now();
    for (const LoadServer& server : servers_) {
      reading.statistics.push_back(server.clients.front()->GetStatistics(absl::Seconds(10)));
    }
    reading.time = begin + (environment_.Now() - begin) / 2;
    return reading;
  }

  static std::string LiveText(const LoadStep& step, const std::string& progress,
                              const LiveFigures& figures) {
    // Within 80 columns.
    const double elapsed = std::chrono::duration<double>(figures.elapsed).count();
    std::string text = absl::StrFormat("%s%s  %.0f", progress, LoadName(step), elapsed);
    if (step.duration != Nanoseconds::max()) {
      absl::StrAppendFormat(&text, "/%.0f",
                            std::chrono::duration<double>(step.ramp + step.duration).count());
    }
    absl::StrAppendFormat(&text, " s  %.0f ok/s  p50 %s  p99 %s  %d in flight",
                          figures.ok_per_second, DurationText(figures.p50),
                          DurationText(figures.p99), figures.in_flight);
    if (figures.failed > 0) absl::StrAppendFormat(&text, "  %d FAILED", figures.failed);
    return text;
  }

  const std::vector<LoadServer>& servers_;
  LoadEnvironment& environment_;
  LoadRun run_;
};

// The highest open-loop rate that meets the goals, each try a step of its own.
void SearchHighestRate(const LoadStep& base, std::optional<double> first, LoadTest* test) {
  if (!first) {
    // A closed loop of one tells what the server does at least; not one of the tries.
    LoadStep probe = base;
    probe.concurrency = 1;
    first = test->Measure(probe, "first: ").result.ok_per_second();
  }
  test->run().highest_rate = 0;
  if (*first == 0) return;
  const double rate = FindHighestRate(
      *first,
      [&](double rate) {
        LoadStep step = base;
        step.rate = rate;
        return *test->Run(step, "search: ").goals_held;
      },
      [] { return !interrupted; });
  test->run().highest_rate = rate;
}

void RunSteps(const LoadStep& base, const LoadOptions& options, LoadTest* test) {
  std::vector<LoadStep> steps;
  LoadStep step = base;
  for (const int concurrency : options.concurrency) {
    step.concurrency = concurrency;
    steps.push_back(step);
    step.load_before = concurrency;
  }
  for (const double rate : options.rates) {
    step.rate = rate;
    steps.push_back(step);
    step.load_before = rate;
  }
  for (std::size_t i = 0; i < steps.size() && !interrupted; ++i) {
    test->Run(steps[i], absl::StrFormat("step %d/%d: ", i + 1, steps.size()));
  }
}

absl::StatusOr<LoadStep> BaseStep(const LoadOptions& options) {
  LoadStep step;
  step.arrivals = options.arrivals;
  step.max_in_flight = options.max_in_flight;
  step.seed = options.seed;
  absl::StatusOr<Nanoseconds> ramp = ParseSeconds("--ramp", options.ramp);
  if (!ramp.ok()) return ramp.status();
  step.ramp = *ramp;
  if (options.count) step.count = *options.count;
  if (!options.duration.empty() || !options.count) {
    absl::StatusOr<Nanoseconds> duration =
        ParseSeconds("--duration", options.duration.empty() ? "10s" : options.duration);
    if (!duration.ok()) return duration.status();
    if (*duration == Nanoseconds(0)) {
      return absl::InvalidArgumentError("--duration: must be longer than 0");
    }
    step.duration = *duration;
  }
  return step;
}

absl::StatusOr<std::vector<MixEntry>> Mix(const LoadOptions& options) {
  if (!options.mix.empty()) return ReadMix(options.mix);
  MixEntry entry = options.single;
  entry.name = "request";
  GeneratedShape& shape = entry.generated.shape;
  shape.num_heads_kv = options.num_heads_kv.value_or(shape.num_heads_q);
  shape.seqlen_k = shape.seqlen_q;
  shape.density = 1 - options.sparsity;
  return std::vector<MixEntry>{entry};
}

int Report(const LoadRun& run, const LoadOptions& options) {
  absl::Status written;
  if (!options.json.empty())
    written.Update(WriteReport(options.json, LoadJson(run).dump(2) + '\n'));
  if (!options.csv.empty()) written.Update(WriteReport(options.csv, LoadCsv(run)));
  if (!options.html.empty()) written.Update(WriteReport(options.html, LoadHtml(run)));
  if (options.json != kStdout && options.csv != kStdout && options.html != kStdout) {
    PrintLoadTables(run, std::cout);
  }
  if (!written.ok()) return Fail(written);
  std::int64_t failed = 0;
  for (const MeasuredStep& step : run.steps) failed += step.result.all_failed;
  // In a search failures are what shows that a rate is too high.
  if (!run.goals.empty() ? run.highest_rate.value_or(0) > 0 : failed == 0) return kSuccess;
  std::cerr << "sagectl: "
            << (run.goals.empty() ? absl::StrCat(failed, " requests failed") : GoalText(run))
            << '\n';
  return kFailure;
}

int RunLoad(LoadOptions options) {
  absl::StatusOr<LoadStep> base = BaseStep(options);
  if (!base.ok()) return RefuseUsage(base.status());
  std::vector<LatencyGoal> goals;
  for (const std::string& text : options.goals) {
    absl::StatusOr<LatencyGoal> goal = ParseLatencyGoal(text);
    if (!goal.ok()) return RefuseUsage(goal.status());
    goals.push_back(*std::move(goal));
  }
  if (!goals.empty() && options.rates.size() > 1) {
    return RefuseUsage(absl::InvalidArgumentError(
        "--slo searches by itself: give one --rate to begin with, or none"));
  }
  if (absl::Status status = CheckReports({options.json, options.csv, options.html}); !status.ok()) {
    return RefuseUsage(status);
  }
  absl::StatusOr<std::vector<MixEntry>> mix = Mix(options);
  if (!mix.ok()) return RefuseUsage(mix.status());
  absl::StatusOr<std::vector<MixedInputs>> inputs = MakeInputs(*mix, options.seed);
  if (!inputs.ok()) return RefuseUsage(inputs.status());
  absl::StatusOr<std::vector<LoadServer>> servers = ConnectAll(options.servers);
  if (!servers.ok()) return RefuseUsage(servers.status());
  std::vector<Client*> clients;
  for (int i = 0; i < options.servers.connections; ++i) {
    for (const LoadServer& server : *servers) clients.push_back(server.clients[i].get());
  }
  for (Client* client : clients) {  // also makes the connections, before the clock runs
    if (absl::StatusOr<v1::ServerInfo> info = client->GetInfo(); !info.ok())
      return Fail(info.status());
  }

  const InterruptHandler handler;
  ClientEnvironment environment(std::move(clients), &*inputs, options.seed, &interrupted);
  if (absl::Status status = environment.PutResident(); !status.ok()) return Fail(status);
  LoadTest test(*servers, &environment, std::move(goals));
  for (const LoadServer& server : *servers) test.run().targets.push_back(server.target);
  test.run().connections = options.servers.connections;
  test.run().mix = *std::move(mix);
  if (!test.run().goals.empty()) {
    SearchHighestRate(
        *base, options.rates.empty() ? std::nullopt : std::optional(options.rates.front()), &test);
  } else {
    if (options.concurrency.empty() && options.rates.empty()) options.concurrency = {1, 2, 4, 8};
    RunSteps(*base, options, &test);
  }
  return Report(test.run(), options);
}

void AddRequestOptions(CLI::App* command, LoadOptions* options) {
  const std::string group = "Requests (N(0,1) inputs, made once)";
  GeneratedCase* generated = &options->single.generated;
  GeneratedShape* shape = &generated->shape;
  command->add_option("--batch", shape->batch, "Batch entries [1]")->group(group);
  command->add_option("--heads", shape->num_heads_q, "Query heads [4]")->group(group);
  command->add_option("--kv-heads", options->num_heads_kv, "Key and value heads [--heads]")
      ->group(group);
  command->add_option("--seqlen", shape->seqlen_q, "Sq and Sk [1024]")->group(group);
  command->add_option("--head-dim", shape->head_dim, "D [128]")->group(group);
  auto* sparsity = command
                       ->add_option("--sparsity", options->sparsity,
                                    "Share of skipped blocks in a random mask per head [0]")
                       ->check(Between("0", "0.9999"))
                       ->group(group);
  command
      ->add_option("--pattern", generated->pattern,
                   std::string("Mask by formula: ") + kMaskPatternForms)
      ->type_name("PATTERN")
      ->excludes(sparsity)
      ->group(group);
  AddPrecisionOption(command, &generated->precision);
  command->get_option("--precision")->group(group);
  command->add_flag("--causal", generated->is_causal, "Query i sees keys j <= i only")
      ->group(group);
  command
      ->add_flag("--resident", generated->resident_kv,
                 "K and V stay at the server, put once for each connection before the first step")
      ->group(group);
  AddDTypeOption(command, &generated->dtype);
  command->get_option("--dtype")->group(group);
  AddLayoutOption(command, &generated->layout);
  command->get_option("--layout")->group(group);
  auto* mix = command->add_option(
      "--mix", options->mix,
      "TOML file of several kinds of requests: [[shape]] tables of weight, name, batch, heads, "
      "kv_heads, seqlen (or seqlen_q, seqlen_k), head_dim, sparsity or pattern, precision, causal, "
      "resident, dtype, layout");
  mix->type_name("FILE")->group(group);
  for (const char* name :
       {"--batch", "--heads", "--kv-heads", "--seqlen", "--head-dim", "--sparsity", "--pattern",
        "--precision", "--causal", "--resident", "--dtype", "--layout"}) {
    mix->excludes(name);
  }
}

void AddScheduleOptions(CLI::App* command, LoadOptions* options) {
  const std::string group = "Load";
  auto* concurrency =
      command
          ->add_option("--concurrency", options->concurrency,
                       "Closed loop: requests under way at once; a step for each of several, "
                       "comma-separated [1,2,4,8]")
          ->delimiter(',')
          ->check(Between("1", "100000"))
          ->group(group);
  command
      ->add_option("--rate", options->rates,
                   "Open loop: requests a second, whatever became of those before; likewise")
      ->delimiter(',')
      ->check(AboveZero())
      ->excludes(concurrency)
      ->group(group);
  CLI::Option* arrivals = command->add_option("--arrivals", options->arrivals,
                                              "Of an open loop: poisson or constant [poisson]");
  TakeWords<ArrivalKind>(
      arrivals, {{"poisson", ArrivalKind::kPoisson}, {"constant", ArrivalKind::kConstant}});
  arrivals->group(group);
  command
      ->add_option("--slo", options->goals,
                   "Find the highest rate at which this holds: p99=50ms; several, comma-separated, "
                   "must all hold. Failed requests count as too slow. Begins at --rate, or at what "
                   "one request at a time reaches")
      ->type_name("GOAL")
      ->delimiter(',')
      ->excludes(concurrency)
      ->group(group);
  command->add_option("--duration", options->duration, "Of each step: 30s, 500ms, 2m [10s]")
      ->type_name("TIME")
      ->group(group);
  command
      ->add_option("--count", options->count,
                   "Requests of each step; with --duration, whichever ends first")
      ->check(AboveZero())
      ->group(group);
  command
      ->add_option("--ramp", options->ramp,
                   "Before each step the load grows this long from that of the step before; not "
                   "part of the figures [0s]")
      ->type_name("TIME")
      ->group(group);
  command
      ->add_option("--max-in-flight", options->max_in_flight,
                   "Open loop: requests under way at once; more wait, their latency running [1024]")
      ->check(Between("1", "1000000"))
      ->group(group);
  command->add_option("--seed", options->seed, "Of inputs, arrivals and the mix [0]")->group(group);
}

}  // namespace

void AddLoadCommand(CLI::App* app, int* exit_code) {
  auto options = std::make_shared<LoadOptions>();
  CLI::App* command = app->add_subcommand("load", "Test how a server holds up under many requests");
  AddServersOptions(command, &options->servers);
  AddScheduleOptions(command, options.get());
  AddRequestOptions(command, options.get());
  AddReportOption(command, "--json", &options->json);
  AddReportOption(command, "--csv", &options->csv);
  AddReportOption(command, "--html", &options->html);
  command->footer(
      "Latency counts from the moment that a request was due, also where client or server fell\n"
      "behind; 'sent late' says by how much the client did at most. 'server p50' is the time that\n"
      "the server itself states for a request. The second table holds the client's count of a "
      "whole\n"
      "step beside the servers' own. Ctrl-C ends a run early, with its figures.\n"
      "Exit status 1 where a request failed, or no rate holds.\n"
      "Examples:\n"
      "  sagectl load --concurrency 1,4,16 --duration 30s --seqlen 2048 --sparsity 0.5\n"
      "  sagectl load --rate 50,100,200 --arrivals constant --ramp 5s --html report.html\n"
      "  sagectl load --slo p99=50ms,p50=20ms --mix mix.toml --json run.json\n"
      "  sagectl load --server a:50051,b:50051 --connections 4 --concurrency 64");
  command->callback([options, exit_code] { *exit_code = RunLoad(*options); });
}

}  // namespace sage::cli
