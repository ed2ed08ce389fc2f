#include "client/cli/problem_options.h"

#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/cli/mask_pattern_option.h"
#include "client/cli/option_checks.h"

namespace sage::cli {
namespace {

// Makes the option take names, any case; a value that is no name is refused with all of them.
template <typename Enum>
void TakeNames(CLI::Option* option, std::initializer_list<Enum> values) {
  std::vector<std::pair<std::string, Enum>> names;
  for (const Enum value : values) names.emplace_back(Name(value), value);
  TakeWords(option, names);
}

void TakePrecisions(CLI::Option* option) {
  TakeNames(option, {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8, Precision::kFp16});
}

constexpr char kPrecisionHelp[] = "qk_int8_pv_fp16, qk_int8_pv_fp8 or fp16 [qk_int8_pv_fp16]";

}  // namespace

void AddProblemOptions(CLI::App* command, ProblemOptions* options) {
  auto* q = command->add_option("--q", options->q, "Queries [B,Hq,Sq,D], .npy or .safetensors");
  auto* k = command->add_option("--k", options->k, "Keys [B,Hkv,Sk,D]");
  auto* v = command->add_option("--v", options->v, "Values [B,Hkv,Sk,D]");
  for (CLI::Option* tensor : {q, k, v}) tensor->type_name("FILE");
  q->needs(k)->needs(v);
  k->needs(q)->needs(v);
  v->needs(q)->needs(k);
  command
      ->add_option("--in", options->in,
                   "One .safetensors file with tensors q, k, v and, if it has one, mask")
      ->type_name("FILE")
      ->excludes(q)
      ->excludes(k)
      ->excludes(v);
  auto* mask = command->add_option(
      "--mask", options->mask,
      "Block mask, bool or uint8 [B|1,Hq|1,ceil(Sq/128),ceil(Sk/64)], 1 computes a block");
  mask->type_name("FILE");
  command
      ->add_option("--pattern", options->pattern,
                   std::string("Mask by formula: ") + kMaskPatternForms)
      ->type_name("PATTERN")
      ->excludes(mask);
  command->add_flag("--causal", options->is_causal,
                    "Query i sees keys j <= i + Sk - Sq only, also within blocks");
  AddLayoutOption(command, &options->layout);
  TakeNames(command->add_option(
                "--dtype", options->dtype,
                "What float32 files are sent as, and generated inputs are: fp16 or bf16 [fp16]"),
            {DType::kFloat16, DType::kBFloat16});
  TakeNames(command->add_option("--output-dtype", options->output_dtype,
                                "fp16, bf16 or fp32 [that of the inputs]"),
            {DType::kFloat16, DType::kBFloat16, DType::kFloat32});
  command->add_option("--scale", options->softmax_scale, "Multiplies q k^T [D^-0.5]");
  command
      ->add_option("--seqlens-q", options->seqlens_q,
                   "Effective query lengths, one per batch entry: 100,80")
      ->delimiter(',');
  command->add_option("--seqlens-k", options->seqlens_k, "Effective key lengths, likewise")
      ->delimiter(',');
  command->add_flag("--prequantize", options->prequantize,
                    "Quantise q and k here and send int8: a third fewer bytes, the same bits back; "
                    "not with precision fp16");
}

absl::Status CheckPrecision(const ProblemOptions& options, Precision precision) {
  if (options.prequantize && precision == Precision::kFp16) {
    return absl::InvalidArgumentError(
        "--prequantize: not with precision fp16, which takes no int8");
  }
  return absl::OkStatus();
}

void AddLayoutOption(CLI::App* command, Layout* layout) {
  TakeNames(command->add_option("--layout", *layout, "HND [B,H,S,D] or NHD [B,S,H,D] [HND]"),
            {Layout::kHnd, Layout::kNhd});
}

void AddDTypeOption(CLI::App* command, DType* dtype) {
  TakeNames(command->add_option("--dtype", *dtype, "fp16 or bf16 [fp16]"),
            {DType::kFloat16, DType::kBFloat16});
}

void AddDTypeOption(CLI::App* command, std::vector<DType>* dtypes) {
  TakeNames(command->add_option("--dtype", *dtypes, "fp16 or bf16 [fp16]")->delimiter(','),
            {DType::kFloat16, DType::kBFloat16});
}

void AddPrecisionOption(CLI::App* command, Precision* precision) {
  TakePrecisions(command->add_option("--precision", *precision, kPrecisionHelp));
}

void AddPrecisionOption(CLI::App* command, std::vector<Precision>* precisions) {
  TakePrecisions(
      command
          ->add_option("--precision", *precisions,
                       std::string(kPrecisionHelp) + "; several, comma-separated, give a row each")
          ->delimiter(','));
}

}  // namespace sage::cli
