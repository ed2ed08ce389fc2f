// sagectl mask: make, convert and show block masks.

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/generated_inputs.h"
#include "client/cli/mask_file.h"
#include "client/cli/mask_pattern_option.h"
#include "client/cli/mask_picture.h"
#include "client/cli/option_checks.h"
#include "client/io/tensor_file.h"

namespace sage::cli {
namespace {

struct MakeOptions {
  std::string pattern;
  double density = 0.5;
  std::uint64_t seed = 0;
  std::int64_t batch = 1;
  std::int64_t heads = 1;
  std::int64_t seqlen = 0;
  std::int64_t seqlen_q = 0;
  std::int64_t seqlen_k = 0;
  std::string out;
};

struct ConvertOptions {
  std::string from;
  std::string out;
};

struct ShowOptions {
  std::string from;
  std::int64_t batch = 0;
  std::int64_t head = 0;
  std::string png;
  std::string svg;
};

// A mask file, open.
struct LoadedMask {
  TensorFile file;
  DenseMask mask;
};

absl::StatusOr<LoadedMask> LoadMask(const std::string& path) {
  absl::StatusOr<TensorFile> file = TensorFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<TensorView> tensor = file->Find("mask");
  if (!tensor.ok()) return tensor.status();
  absl::StatusOr<DenseMask> mask = AsDenseMask(path, *tensor);
  if (!mask.ok()) return mask.status();
  return LoadedMask{*std::move(file), *std::move(mask)};
}

// The problem that a mask of these options is for; heads and head_dim do not matter to it.
absl::StatusOr<AttentionProblem> MaskProblem(const MakeOptions& options) {
  AttentionProblem problem;
  problem.batch = options.batch;
  problem.num_heads_q = options.heads;
  problem.num_heads_kv = 1;
  problem.seqlen_q = options.seqlen_q > 0 ? options.seqlen_q : options.seqlen;
  problem.seqlen_k = options.seqlen_k > 0 ? options.seqlen_k : options.seqlen;
  problem.head_dim = 64;
  if (problem.seqlen_q == 0 || problem.seqlen_k == 0) {
    return absl::InvalidArgumentError("give --seqlen, or both --seqlen-q and --seqlen-k");
  }
  if (absl::Status status = ValidateProblem(problem); !status.ok()) return status;
  return problem;
}

absl::StatusOr<std::vector<std::uint8_t>> MakeBlocks(const MakeOptions& options,
                                                     const AttentionProblem& problem) {
  const std::int64_t maps = problem.batch * problem.num_heads_q;
  const std::int64_t size = problem.tiles_q() * problem.blocks_k();
  if (options.pattern == "random") {
    return RandomBlocks(maps, problem.tiles_q(), problem.blocks_k(), options.density, options.seed);
  }
  if (options.pattern == "full") return std::vector<std::uint8_t>(maps * size, 1);
  MaskPattern pattern;
  if (options.pattern == "causal") {  // all up to the diagonal
    pattern = SlidingWindowPattern{
        .left_blocks = problem.blocks_k() + CeilDiv(problem.seqlen_q, kBlockN), .right_blocks = 0};
  } else {
    absl::StatusOr<MaskPattern> parsed = ParseMaskPattern(options.pattern);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(parsed.status().message(), "  random  causal  full"));
    }
    pattern = *std::move(parsed);
  }
  absl::StatusOr<BlockMask> mask = BlockMask::FromPattern(problem, pattern);
  if (!mask.ok()) return mask.status();
  const std::vector<std::uint8_t> map = mask->ToDense();
  std::vector<std::uint8_t> blocks;
  blocks.reserve(maps * size);
  for (std::int64_t i = 0; i < maps; ++i) blocks.insert(blocks.end(), map.begin(), map.end());
  return blocks;
}

int RunMake(const MakeOptions& options) {
  absl::StatusOr<AttentionProblem> problem = MaskProblem(options);
  if (!problem.ok()) return RefuseUsage(problem.status());
  absl::StatusOr<std::vector<std::uint8_t>> blocks = MakeBlocks(options, *problem);
  if (!blocks.ok()) return RefuseUsage(blocks.status());
  const DenseMask mask = {
      {problem->batch, problem->num_heads_q, problem->tiles_q(), problem->blocks_k()}, *blocks};
  if (absl::Status status = WriteMask(options.out, mask); !status.ok()) return RefuseUsage(status);
  const MaskMap all = {problem->batch * problem->num_heads_q * problem->tiles_q(),
                       problem->blocks_k(), *blocks};
  std::cout << options.out << ": " << ShapeText({mask.shape.begin(), mask.shape.end()})
            << absl::StrFormat(", density %.4f\n", all.Density());
  return kSuccess;
}

int RunConvert(const ConvertOptions& options) {
  absl::StatusOr<LoadedMask> loaded = LoadMask(options.from);
  if (!loaded.ok()) return RefuseUsage(loaded.status());
  if (absl::Status status = WriteMask(options.out, loaded->mask); !status.ok()) {
    return RefuseUsage(status);
  }
  std::cout << options.out << ": "
            << ShapeText({loaded->mask.shape.begin(), loaded->mask.shape.end()}) << '\n';
  return kSuccess;
}

int TerminalColumns() {
  constexpr int kDefault = 80;
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return kDefault;
}

bool TerminalSpeaksUnicode() {
  for (const char* variable : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(variable);
    if (value == nullptr || *value == '\0') continue;
    const std::string locale = absl::AsciiStrToLower(value);
    return absl::StrContains(locale, "utf-8") || absl::StrContains(locale, "utf8");
  }
  return false;
}

int RunShow(const ShowOptions& options) {
  absl::StatusOr<LoadedMask> loaded = LoadMask(options.from);
  if (!loaded.ok()) return RefuseUsage(loaded.status());
  const auto [batch, heads, tiles_q, blocks_k] = loaded->mask.shape;
  if (options.batch >= batch || options.head >= heads) {
    return RefuseUsage(absl::InvalidArgumentError(
        absl::StrCat(options.from, ": no map for batch ", options.batch, ", head ", options.head,
                     "; there are ", batch, " and ", heads)));
  }
  const std::int64_t size = tiles_q * blocks_k;
  const MaskMap map = {
      tiles_q, blocks_k,
      loaded->mask.blocks.subspan((options.batch * heads + options.head) * size, size)};
  const MaskMap all = {batch * heads * tiles_q, blocks_k, loaded->mask.blocks};
  const std::string title = absl::StrFormat("%s  batch %d  head %d  density %.4f", options.from,
                                            options.batch, options.head, map.Density());
  std::cout << options.from << ": " << ShapeText({batch, heads, tiles_q, blocks_k})
            << absl::StrFormat(", density %.4f\nbatch %d of %d, head %d of %d: density %.4f\n",
                               all.Density(), options.batch, batch, options.head, heads,
                               map.Density());
  absl::Status status;
  if (!options.png.empty()) status.Update(WritePng(map, options.png));
  if (!options.svg.empty()) status.Update(WriteSvg(map, title, options.svg));
  if (!status.ok()) return RefuseUsage(status);
  if (options.png.empty() && options.svg.empty()) {
    std::cout << TextPicture(map, TerminalColumns(), TerminalSpeaksUnicode());
  }
  return kSuccess;
}

void AddMake(CLI::App* mask, int* exit_code) {
  auto options = std::make_shared<MakeOptions>();
  CLI::App* command = mask->add_subcommand("make", "Write a new mask");
  command
      ->add_option("--pattern", options->pattern,
                   absl::StrCat("random  causal  full  ", kMaskPatternForms))
      ->type_name("PATTERN")
      ->required();
  command->add_option("--density", options->density, "Share of blocks to compute, for random [0.5]")
      ->check(Between("0", "1"));
  command->add_option("--seed", options->seed, "Of a random mask [0]");
  command->add_option("--batch", options->batch, "Batch entries [1]");
  command->add_option("--heads", options->heads, "Query heads [1]");
  command->add_option("--seqlen", options->seqlen, "Sq and Sk, in tokens");
  command->add_option("--seqlen-q", options->seqlen_q, "Sq, in tokens");
  command->add_option("--seqlen-k", options->seqlen_k, "Sk, in tokens");
  command->add_option("--out", options->out, "Where it goes, .npy or .safetensors")
      ->type_name("FILE")
      ->required();
  command->footer(
      "Examples:\n"
      "  sagectl mask make --pattern random --density 0.3 --heads 8 --seqlen 4096 --out m.npy\n"
      "  sagectl mask make --pattern sink_window:2,8 --seqlen 8192 --out m.npy");
  command->callback([options, exit_code] { *exit_code = RunMake(*options); });
}

void AddConvert(CLI::App* mask, int* exit_code) {
  auto options = std::make_shared<ConvertOptions>();
  CLI::App* command = mask->add_subcommand(
      "convert", "Rewrite a mask of 2 to 4 dimensions, bool or uint8, as bool of 4");
  command->add_option("from,--from", options->from, "The mask, .npy or .safetensors")
      ->type_name("FILE")
      ->required();
  command->add_option("--out", options->out, "Where it goes, .npy or .safetensors")
      ->type_name("FILE")
      ->required();
  command->footer("Example: sagectl mask convert m.npy --out m.safetensors");
  command->callback([options, exit_code] { *exit_code = RunConvert(*options); });
}

void AddShow(CLI::App* mask, int* exit_code) {
  auto options = std::make_shared<ShowOptions>();
  CLI::App* command = mask->add_subcommand("show", "Draw a mask in the terminal, or as PNG or SVG");
  command->add_option("from,--from", options->from, "The mask, .npy or .safetensors")
      ->type_name("FILE")
      ->required();
  command->add_option("--batch", options->batch, "Batch entry to draw [0]")->check(ZeroAndMore());
  command->add_option("--head", options->head, "Head to draw [0]")->check(ZeroAndMore());
  command->add_option("--png", options->png, "Write a PNG here instead")->type_name("FILE");
  command->add_option("--svg", options->svg, "Write an SVG here instead")->type_name("FILE");
  command->footer("Example: sagectl mask show m.npy --head 3 --png m.png");
  command->callback([options, exit_code] { *exit_code = RunShow(*options); });
}

}  // namespace

void AddMaskCommand(CLI::App* app, int* exit_code) {
  CLI::App* command = app->add_subcommand("mask", "Make, convert and show block masks");
  command->require_subcommand(1);
  command->footer(
      "A mask says for each block of 128 queries by 64 keys whether it is computed (1) or skipped\n"
      "(0). 'sagectl mask COMMAND --help' shows a command's options and examples.");
  AddMake(command, exit_code);
  AddConvert(command, exit_code);
  AddShow(command, exit_code);
}

}  // namespace sage::cli
