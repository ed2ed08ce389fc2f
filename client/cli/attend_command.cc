// sagectl attend: tensors from files to a server, the answer to a file.

#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/option_checks.h"
#include "client/cli/problem_inputs.h"
#include "client/cli/problem_options.h"
#include "client/cli/problem_text.h"
#include "client/cli/progress_bar.h"
#include "client/cli/server_options.h"
#include "client/cli/stage_times.h"
#include "client/cli/table.h"
#include "client/io/mapped_file.h"
#include "client/io/tensor_file.h"
#include "nlohmann/json.hpp"

namespace sage::cli {
namespace {

struct AttendOptions {
  ServerOptions server;
  ProblemOptions problem;
  Precision precision = Precision::kQkInt8PvFp16;
  std::string out;
  std::string lse;
  std::string request_id;
  int priority = 0;
  bool checksums = false;
  bool json = false;
};

ElementType AsElementType(DType dtype) {
  return dtype == DType::kFloat16    ? ElementType::kFloat16
         : dtype == DType::kBFloat16 ? ElementType::kBFloat16
                                     : ElementType::kFloat32;
}

void PrintText(const AttentionProblem& problem, const AttendReport& report) {
  std::cout << ShapeName(problem) << ' ' << Name(problem.precision) << '\n';
  std::cout << absl::StrFormat(
      "density %.3f  effective TOPS %.3f  sent %s  received %s  request %s\n", report.block_density,
      report.effective_tops, ByteText(static_cast<double>(report.bytes_in)),
      ByteText(static_cast<double>(report.bytes_out)), report.request_id);
  std::vector<std::string> names = {"stage"};
  std::vector<std::string> times = {"ms"};
  for (const StageTime& stage : StageTimes(report)) {
    names.emplace_back(stage.name);
    times.push_back(absl::StrFormat("%.3f", stage.seconds * 1e3));
  }
  PrintTable({names, times}, std::cout);
}

void PrintJson(const AttentionProblem& problem, const AttendReport& report) {
  nlohmann::ordered_json seconds;
  for (const StageTime& stage : StageTimes(report)) seconds[stage.name] = stage.seconds;
  nlohmann::ordered_json root = ProblemJson(problem);
  root["request_id"] = report.request_id;
  root["server_id"] = report.server_id;
  root["block_density"] = report.block_density;
  root["effective_tops"] = report.effective_tops;
  root["bytes_in"] = report.bytes_in;
  root["bytes_out"] = report.bytes_out;
  root["seconds"] = std::move(seconds);
  std::cout << root.dump() << '\n';
}

int RunAttend(const AttendOptions& options) {
  if (!options.problem.has_files()) {
    return RefuseUsage(absl::InvalidArgumentError(
        "no input: give --q, --k and --v, or --in with a .safetensors file"));
  }
  if (absl::Status status = CheckPrecision(options.problem, options.precision); !status.ok()) {
    return RefuseUsage(status);
  }
  absl::StatusOr<ProblemInputs> inputs = LoadInputs(options.problem);
  if (!inputs.ok()) return RefuseUsage(inputs.status());
  AttentionProblem& problem = inputs->problem;
  problem.precision = options.precision;
  problem.return_lse = !options.lse.empty();

  std::vector<std::int64_t> out_shape = {problem.batch, problem.num_heads_q, problem.seqlen_q,
                                         problem.head_dim};
  if (problem.layout == Layout::kNhd) std::swap(out_shape[1], out_shape[2]);
  absl::StatusOr<TensorWriter> out = TensorWriter::Create(
      options.out, {{"out", AsElementType(problem.output_dtype), std::move(out_shape)}});
  if (!out.ok()) return RefuseUsage(out.status());
  TensorWriter lse;
  if (problem.return_lse) {
    absl::StatusOr<TensorWriter> writer = TensorWriter::Create(
        options.lse,
        {{"lse", ElementType::kFloat32, {problem.batch, problem.num_heads_q, problem.seqlen_q}}});
    if (!writer.ok()) return RefuseUsage(writer.status());
    lse = *std::move(writer);
  }
  absl::StatusOr<std::unique_ptr<Client>> client = Connect(options.server);
  if (!client.ok()) return RefuseUsage(client.status());

  AttendRequest request = MakeRequest(*inputs);
  request.out = out->data(0);
  if (problem.return_lse) request.lse = reinterpret_cast<float*>(lse.data(0));
  request.request_id = options.request_id;
  request.priority = options.priority;
  request.checksums = options.checksums;
  request.on_range_done = DropPages;  // neither input nor output need be resident whole
  absl::StatusOr<AttendReport> report;
  {
    ProgressBar bar;
    request.on_unit_done = bar.UnitProgress();
    report = (*client)->Attend(request);
  }
  if (!report.ok()) return Fail(report.status());
  absl::Status committed = out->Commit();
  if (problem.return_lse) committed.Update(lse.Commit());
  if (!committed.ok()) return Fail(committed);
  if (options.json) {
    PrintJson(problem, *report);
  } else {
    PrintText(problem, *report);
  }
  return kSuccess;
}

}  // namespace

void AddAttendCommand(CLI::App* app, int* exit_code) {
  auto options = std::make_shared<AttendOptions>();
  CLI::App* command = app->add_subcommand("attend", "Offload one attention, from files to files");
  AddServerOptions(command, &options->server);
  AddProblemOptions(command, &options->problem);
  AddPrecisionOption(command, &options->precision);
  command
      ->add_option("--out", options->out,
                   "Where the output goes, .npy or .safetensors; bf16 needs .safetensors")
      ->type_name("FILE")
      ->required();
  command->add_option("--lse", options->lse, "Also return log-sum-exp, float32 [B,Hq,Sq], here")
      ->type_name("FILE");
  command->add_option("--request-id", options->request_id, "Name of the request in server logs");
  command
      ->add_option("--priority", options->priority, "Larger first between requests of one tenant")
      ->check(Between("-10", "10"));
  command->add_flag("--checksums", options->checksums, "Send crc32c with each chunk");
  command->add_flag("--json", options->json, "Print JSON");
  command->footer(
      "Examples:\n"
      "  sagectl attend --q q.npy --k k.npy --v v.npy --mask m.npy --out o.npy --lse l.npy\n"
      "  sagectl attend --in qkv.safetensors --pattern sliding_window:8,0 --causal --layout NHD "
      "\\\n"
      "                 --out o.safetensors --json");
  command->callback([options, exit_code] { *exit_code = RunAttend(*options); });
}

}  // namespace sage::cli
