// sagectl verify: the server's answers against the float64 reference.

#include <cmath>
#include <cstring>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/comparison.h"
#include "client/cli/exit_code.h"
#include "client/cli/generated_inputs.h"
#include "client/cli/problem_inputs.h"
#include "client/cli/problem_options.h"
#include "client/cli/progress_bar.h"
#include "client/cli/server_options.h"
#include "client/cli/table.h"
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

// Largest relative L2 that N(0, 1)-like data shows in each precision, with margin.
double RelativeL2Limit(const AttentionProblem& problem) {
  switch (problem.precision) {
    case Precision::kQkInt8PvFp16:
      return 0.03;
    case Precision::kQkInt8PvFp8:
      return 0.06;
    case Precision::kFp16:
      return problem.dtype == DType::kBFloat16 || problem.output_dtype == DType::kBFloat16 ? 0.01
                                                                                           : 0.002;
  }
  return 0;
}

// The same for lse, as Comparison has it. Exact scores err by fp32 rounding alone; int8 scores by
// the rounding of both operands, which a row with a single visible key shows in full.
double LseLimit(Precision precision) { return precision == Precision::kFp16 ? 0.002 : 0.1; }

struct Verdict {
  AttentionProblem problem;
  AttendReport report;
  Comparison comparison;
  double limit = 0;
  std::vector<std::string> faults;  // empty: passed

  bool passed() const { return faults.empty(); }
};

void Judge(Verdict* verdict) {
  const Comparison& comparison = verdict->comparison;
  // Written so that NaN fails.
  if (!(comparison.out.relative_l2 <= verdict->limit)) {
    verdict->faults.push_back(absl::StrFormat("relative L2 %.6f is over the limit of %.6f",
                                              comparison.out.relative_l2, verdict->limit));
  }
  const double lse_limit = LseLimit(verdict->problem.precision);
  if (!(comparison.lse_error <= lse_limit)) {
    verdict->faults.push_back(absl::StrFormat("lse is off by %.6f, over the limit of %.6f",
                                              comparison.lse_error, lse_limit));
  }
  if (comparison.wrong_empty_rows > 0) {
    verdict->faults.push_back(
        absl::StrFormat("%d rows without a visible key are not exactly 0 with lse -inf",
                        comparison.wrong_empty_rows));
  }
}

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

absl::StatusOr<Verdict> VerifyOne(Client* client, const ProblemInputs& inputs,
                                  const VerifyOptions& options) {
  const AttentionProblem& problem = inputs.problem;
  // NaN in every dtype, so that what the server leaves out shows.
  std::vector<std::byte> out(problem.q_elements() * SizeOf(problem.output_dtype), std::byte{0xff});
  std::vector<float> lse(problem.lse_elements(), std::nanf(""));
  AttendRequest request = MakeRequest(inputs);
  request.out = out.data();
  request.lse = lse.data();
  absl::StatusOr<AttendReport> report;
  {
    ProgressBar bar;
    request.on_unit_done = [&bar](std::int64_t done, std::int64_t total) {
      bar.Update(done, total);
    };
    report = client->Attend(request);
  }
  if (!report.ok()) return report.status();

  const std::vector<std::uint8_t> dense = inputs.mask.ToDense();
  const ReferenceInputs reference = {.q = inputs.q,
                                     .k = inputs.k,
                                     .v = inputs.v,
                                     .mask = inputs.mask.full() ? nullptr : dense.data(),
                                     .mask_batch = inputs.mask.batch(),
                                     .mask_heads = inputs.mask.heads()};
  Verdict verdict;
  verdict.problem = problem;
  verdict.report = *std::move(report);
  verdict.comparison =
      CompareWithReference(problem, reference, out.data(), lse.data(), options.shape.seed);
  verdict.limit = options.limit.value_or(RelativeL2Limit(problem));
  Judge(&verdict);
  return verdict;
}

std::string ShapeName(const AttentionProblem& problem) {
  std::string name = absl::StrCat("B", problem.batch, " H", problem.num_heads_q);
  if (problem.num_heads_kv != problem.num_heads_q)
    absl::StrAppend(&name, "/", problem.num_heads_kv);
  absl::StrAppend(&name, " S", problem.seqlen_q);
  if (problem.seqlen_k != problem.seqlen_q) absl::StrAppend(&name, "x", problem.seqlen_k);
  absl::StrAppend(&name, " D", problem.head_dim, " ", std::string(Name(problem.dtype)), " ",
                  std::string(Name(problem.layout)), problem.is_causal ? " causal" : "");
  return name;
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

// JSON has no NaN; null says that the figure is not a number.
nlohmann::ordered_json Number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

void PrintJson(const std::vector<Verdict>& verdicts) {
  nlohmann::ordered_json root = nlohmann::ordered_json::array();
  for (const Verdict& verdict : verdicts) {
    const AttentionProblem& problem = verdict.problem;
    const Comparison& comparison = verdict.comparison;
    root.push_back({{"batch", problem.batch},
                    {"num_heads_q", problem.num_heads_q},
                    {"num_heads_kv", problem.num_heads_kv},
                    {"seqlen_q", problem.seqlen_q},
                    {"seqlen_k", problem.seqlen_k},
                    {"head_dim", problem.head_dim},
                    {"layout", Name(problem.layout)},
                    {"dtype", Name(problem.dtype)},
                    {"precision", Name(problem.precision)},
                    {"is_causal", problem.is_causal},
                    {"block_density", verdict.report.block_density},
                    {"wall_seconds", verdict.report.wall_seconds},
                    {"kernel_seconds", verdict.report.stages.kernel},
                    {"effective_tops", verdict.report.effective_tops},
                    {"cosine", Number(comparison.out.cosine)},
                    {"relative_l1", Number(comparison.out.relative_l1)},
                    {"relative_l2", Number(comparison.out.relative_l2)},
                    {"limit", verdict.limit},
                    {"lse_error", Number(comparison.lse_error)},
                    {"wrong_empty_rows", comparison.wrong_empty_rows},
                    {"rows_checked", comparison.rows_checked},
                    {"rows", comparison.rows},
                    {"passed", verdict.passed()}});
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
      inputs->problem.return_lse = true;
      absl::StatusOr<Verdict> verdict = VerifyOne(client->get(), *inputs, options);
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
      ->check(CLI::Range(0.0, 1.0))
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
      ->check(CLI::NonNegativeNumber);
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
