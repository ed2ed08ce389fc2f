// sagectl verify: the server's answers against the float64 reference.

#include <cstddef>
#include <cstdint>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/generated_inputs.h"
#include "client/cli/option_checks.h"
#include "client/cli/problem_inputs.h"
#include "client/cli/problem_options.h"
#include "client/cli/problem_text.h"
#include "client/cli/progress_bar.h"
#include "client/cli/server_options.h"
#include "client/cli/table.h"
#include "client/cli/verdict.h"
#include "client/convert.h"
#include "nlohmann/json.hpp"

namespace sage::cli {
namespace {

struct VerifyOptions {
  ServerOptions server;
  ProblemOptions problem;
  std::vector<Precision> precisions = {Precision::kQkInt8PvFp16};
  // Generated problems: one for each of seqlens x head_dims.
  GeneratedShape shape;
  std::optional<std::int64_t> num_heads_kv;  // absent: as many as query heads
  std::vector<std::int64_t> seqlens = {1024};
  std::optional<std::int64_t> seqlen_q;
  std::optional<std::int64_t> seqlen_k;
  std::vector<std::int64_t> head_dims = {128};
  std::optional<double> limit;
  bool json = false;
};

// q, k and v as the server sees them: fp32 files are converted for the reference too.
absl::Status ConvertInputs(ProblemInputs* inputs) {
  const AttentionProblem& problem = inputs->problem;
  const std::int64_t elements[] = {problem.q_elements(), problem.kv_elements(),
                                   problem.kv_elements()};
  const void** tensors[] = {&inputs->q, &inputs->k, &inputs->v};
  for (std::size_t i = 0; i < std::size(tensors); ++i) {
    std::vector<std::byte> converted(elements[i] * SizeOf(problem.dtype));
    if (absl::Status status =
            ConvertFromFloat32(*tensors[i], elements[i], problem.dtype, converted.data());
        !status.ok()) {
      return status;
    }
    inputs->generated.push_back(std::move(converted));
    *tensors[i] = inputs->generated.back().data();
  }
  inputs->float32 = false;
  return absl::OkStatus();
}

void PrintText(const std::vector<Verdict>& verdicts) {
  std::vector<std::vector<std::string>> rows = {{"shape", "precision", "density", "time(ms)",
                                                 "kernel(ms)", "eff.TOPS", "cosine", "rel.L1",
                                                 "rel.L2", "limit", "result"}};
  for (const Verdict& verdict : verdicts) {
    const Similarity& similarity = verdict.comparison.out;
    rows.push_back({ShapeName(verdict.problem), std::string(Name(verdict.problem.precision)),
                    absl::StrFormat("%.3f", verdict.report.block_density),
                    absl::StrFormat("%.2f", verdict.report.wall_seconds * 1e3),
                    absl::StrFormat("%.2f", verdict.report.stages.kernel * 1e3),
                    absl::StrFormat("%.4g", verdict.report.effective_tops),
                    absl::StrFormat("%.6f", similarity.cosine),
                    absl::StrFormat("%.6f", similarity.relative_l1),
                    absl::StrFormat("%.6f", similarity.relative_l2),
                    absl::StrFormat("%.3g", verdict.limit), verdict.passed() ? "ok" : "FAILED"});
  }
  PrintTable(rows, std::cout);
}

void PrintJson(const std::vector<Verdict>& verdicts) {
  nlohmann::ordered_json root = nlohmann::ordered_json::array();
  for (const Verdict& verdict : verdicts) {
    nlohmann::ordered_json entry = ProblemJson(verdict.problem);
    entry["block_density"] = verdict.report.block_density;
    entry["wall_seconds"] = verdict.report.wall_seconds;
    entry["kernel_seconds"] = verdict.report.stages.kernel;
    entry["effective_tops"] = verdict.report.effective_tops;
    entry.update(VerdictJson(verdict));
    root.push_back(std::move(entry));
  }
  std::cout << root.dump() << '\n';
}

absl::StatusOr<ProblemInputs> LoadConverted(const ProblemOptions& options) {
  absl::StatusOr<ProblemInputs> inputs = LoadInputs(options);
  if (inputs.ok() && inputs->float32) {
    if (absl::Status status = ConvertInputs(&*inputs); !status.ok()) return status;
  }
  return inputs;
}

// The shapes that the options ask for; a single empty one where inputs come from files.
std::vector<GeneratedShape> Shapes(const VerifyOptions& options) {
  if (options.problem.has_files()) return {GeneratedShape{}};
  std::vector<GeneratedShape> shapes;
  for (const std::int64_t seqlen : options.seqlens) {
    for (const std::int64_t head_dim : options.head_dims) {
      GeneratedShape shape = options.shape;
      shape.num_heads_kv = options.num_heads_kv.value_or(shape.num_heads_q);
      shape.seqlen_q = options.seqlen_q.value_or(seqlen);
      shape.seqlen_k = options.seqlen_k.value_or(seqlen);
      shape.head_dim = head_dim;
      shapes.push_back(shape);
    }
  }
  return shapes;
}

int RunVerify(const VerifyOptions& options) {
  for (const Precision precision : options.precisions) {
    if (absl::Status status = CheckPrecision(options.problem, precision); !status.ok()) {
      return RefuseUsage(status);
    }
  }
  absl::StatusOr<std::unique_ptr<Client>> client = Connect(options.server);
  if (!client.ok()) return RefuseUsage(client.status());
  std::vector<Verdict> verdicts;
  for (const GeneratedShape& shape : Shapes(options)) {
    absl::StatusOr<ProblemInputs> inputs = options.problem.has_files()
                                               ? LoadConverted(options.problem)
                                               : GenerateInputs(shape, options.problem);
    if (!inputs.ok()) return RefuseUsage(inputs.status());
    for (const Precision precision : options.precisions) {
      inputs->problem.precision = precision;
      ProgressBar bar;
      absl::StatusOr<Verdict> verdict = Verify(client->get(), *inputs, options.limit,
                                               options.shape.seed, nullptr, bar.UnitProgress());
      if (!verdict.ok()) return Fail(verdict.status());
      verdicts.push_back(*std::move(verdict));
    }
  }
  if (options.json) {
    PrintJson(verdicts);
  } else {
    PrintText(verdicts);
  }
  int exit_code = kSuccess;
  for (const Verdict& verdict : verdicts) {
    for (const std::string& fault : verdict.faults) {
      std::cerr << "sagectl: verification failed: " << ShapeName(verdict.problem) << " "
                << Name(verdict.problem.precision) << ": " << fault << '\n';
      exit_code = kFailure;
    }
  }
  return exit_code;
}

void AddShapeOptions(CLI::App* command, VerifyOptions* options) {
  GeneratedShape* shape = &options->shape;
  const std::string group = "Generated inputs (without files)";
  command->add_option("--batch", shape->batch, "Batch entries [1]")->group(group);
  command->add_option("--heads", shape->num_heads_q, "Query heads [4]")->group(group);
  command->add_option("--kv-heads", options->num_heads_kv, "Key and value heads [--heads]")
      ->group(group);
  auto* seqlen =
      command->add_option("--seqlen", options->seqlens, "Sq and Sk; comma-separated [1024]")
          ->delimiter(',')
          ->group(group);
  command->add_option("--seqlen-q", options->seqlen_q, "Sq")->group(group)->excludes(seqlen);
  command->add_option("--seqlen-k", options->seqlen_k, "Sk")->group(group)->excludes(seqlen);
  command->add_option("--head-dim", options->head_dims, "D; comma-separated [128]")
      ->delimiter(',')
      ->group(group);
  command
      ->add_option("--density", shape->density,
                   "Share of blocks in a random mask per head; 1: no mask [1]")
      ->check(Between("0", "1"))
      ->group(group)
      ->excludes("--mask")
      ->excludes("--pattern");
  command->add_option("--seed", shape->seed, "Of the inputs and the rows checked [0]")
      ->group(group);
}

}  // namespace

void AddVerifyCommand(CLI::App* app, int* exit_code) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* command = app->add_subcommand(
      "verify", "Compare a server's answers with the float64 reference; exit 1 over the limit");
  AddServerOptions(command, &options->server);
  AddProblemOptions(command, &options->problem);
  AddPrecisionOption(command, &options->precisions);
  AddShapeOptions(command, options.get());
  command
      ->add_option("--limit", options->limit,
                   "Largest relative L2 [fp16 0.002, with bf16 0.01; qk_int8_pv_fp16 0.03; "
                   "qk_int8_pv_fp8 0.06]")
      ->check(ZeroAndMore());
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(
      "Small problems are checked whole, of larger ones about 80 rows a head: the ends of the\n"
      "sequence and of some tiles, and 64 drawn at random. time(ms) is from call to completion,\n"
      "kernel(ms) the server's attention kernels, which eff.TOPS are over.\n"
      "Examples:\n"
      "  sagectl verify --seqlen 1024,4096 --head-dim 64,128 --density 0.5\n"
      "  sagectl verify --heads 8 --kv-heads 2 --seqlen-q 1000 --seqlen-k 3000 --causal \\\n"
      "                 --dtype bf16 --layout NHD --precision qk_int8_pv_fp16,fp16\n"
      "  sagectl verify --q q.npy --k k.npy --v v.npy --mask m.npy");
  command->callback([options, exit_code] { *exit_code = RunVerify(*options); });
}

}  // namespace sage::cli
