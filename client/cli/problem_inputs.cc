#include "client/cli/problem_inputs.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cli/mask_file.h"
#include "client/cli/mask_pattern_option.h"

namespace sage::cli {
namespace {

constexpr std::size_t kDimensions = 4;

struct Operand {
  std::string name;  // of the file, and of the tensor where it may have several
  TensorView tensor;
};

absl::StatusOr<Operand> OpenOperand(const std::string& tensor, const std::string& path,
                                    std::vector<TensorFile>* files) {
  absl::StatusOr<TensorFile> file = TensorFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<TensorView> view = file->Find(tensor);
  if (!view.ok()) return view.status();
  files->push_back(*std::move(file));
  return Operand{absl::StrCat(tensor, " (", path, ")"), *std::move(view)};
}

std::string Describe(const Operand& operand) {
  return absl::StrCat(operand.name, " is ", ShapeText(operand.tensor.shape), " ",
                      Name(operand.tensor.type));
}

absl::Status Disagree(const Operand& a, const Operand& b, const char* rule) {
  return absl::InvalidArgumentError(absl::StrCat(Describe(a), ", ", Describe(b), "; ", rule));
}

absl::Status SetShape(const Operand& q, const Operand& k, const Operand& v, Layout layout,
                      AttentionProblem* problem) {
  for (const Operand* operand : {&q, &k, &v}) {
    if (operand->tensor.shape.size() != kDimensions) {
      return absl::InvalidArgumentError(
          absl::StrCat(Describe(*operand), "; it needs 4 dimensions, ",
                       layout == Layout::kHnd ? "[batch, heads, seqlen, head_dim]"
                                              : "[batch, seqlen, heads, head_dim]"));
    }
    if (operand->tensor.type == ElementType::kUInt8 || operand->tensor.type == ElementType::kBool) {
      return absl::InvalidArgumentError(
          absl::StrCat(Describe(*operand), "; it must be float16, bfloat16 or float32"));
    }
  }
  if (k.tensor.shape != v.tensor.shape) return Disagree(k, v, "k and v need the same shape");
  if (q.tensor.type != k.tensor.type) return Disagree(q, k, "q, k and v need the same type");
  if (k.tensor.type != v.tensor.type) return Disagree(k, v, "q, k and v need the same type");
  if (q.tensor.shape[0] != k.tensor.shape[0]) {
    return Disagree(q, k, "the first dimension, the batch, must be the same");
  }
  if (q.tensor.shape[3] != k.tensor.shape[3]) {
    return Disagree(q, k, "the last dimension, head_dim, must be the same");
  }
  const std::size_t heads = layout == Layout::kHnd ? 1 : 2;
  const std::size_t rows = layout == Layout::kHnd ? 2 : 1;
  problem->batch = q.tensor.shape[0];
  problem->num_heads_q = q.tensor.shape[heads];
  problem->num_heads_kv = k.tensor.shape[heads];
  problem->seqlen_q = q.tensor.shape[rows];
  problem->seqlen_k = k.tensor.shape[rows];
  problem->head_dim = q.tensor.shape[3];
  if (problem->num_heads_kv > 0 && problem->num_heads_q % problem->num_heads_kv != 0) {
    return Disagree(q, k,
                    layout == Layout::kHnd
                        ? "the heads of q must be a multiple of those of k; is the layout NHD?"
                        : "the heads of q must be a multiple of those of k; is the layout HND?");
  }
  return absl::OkStatus();
}

absl::Status ReadMask(const ProblemOptions& options, ProblemInputs* inputs) {
  if (!options.pattern.empty()) {
    absl::StatusOr<MaskPattern> pattern = ParseMaskPattern(options.pattern);
    if (!pattern.ok()) return pattern.status();
    absl::StatusOr<BlockMask> mask = BlockMask::FromPattern(inputs->problem, *pattern);
    if (!mask.ok()) {
      return {mask.status().code(),
              absl::StrCat("--pattern ", options.pattern, ": ", mask.status().message())};
    }
    inputs->pattern = *std::move(pattern);
    inputs->mask = *std::move(mask);
    return absl::OkStatus();
  }
  std::string path = options.mask;
  if (path.empty() && !options.in.empty() && inputs->files.front().Has("mask")) path = options.in;
  if (path.empty()) return absl::OkStatus();
  absl::StatusOr<Operand> operand = OpenOperand("mask", path, &inputs->files);
  if (!operand.ok()) return operand.status();
  absl::StatusOr<DenseMask> dense = AsDenseMask(operand->name, operand->tensor);
  if (!dense.ok()) return dense.status();
  absl::StatusOr<BlockMask> mask = AsBlockMask(inputs->problem, operand->name, *dense);
  if (!mask.ok()) return mask.status();
  inputs->mask = *std::move(mask);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ProblemInputs> LoadInputs(const ProblemOptions& options) {
  ProblemInputs inputs;
  const auto open = [&](const char* tensor, const std::string& path) {
    return OpenOperand(tensor, options.in.empty() ? path : options.in, &inputs.files);
  };
  absl::StatusOr<Operand> q = open("q", options.q);
  if (!q.ok()) return q.status();
  absl::StatusOr<Operand> k = open("k", options.k);
  if (!k.ok()) return k.status();
  absl::StatusOr<Operand> v = open("v", options.v);
  if (!v.ok()) return v.status();
  if (absl::Status status = SetShape(*q, *k, *v, options.layout, &inputs.problem); !status.ok()) {
    return status;
  }

  inputs.q = q->tensor.data;
  inputs.k = k->tensor.data;
  inputs.v = v->tensor.data;
  inputs.float32 = q->tensor.type == ElementType::kFloat32;
  inputs.problem.dtype = inputs.float32                             ? options.dtype
                         : q->tensor.type == ElementType::kBFloat16 ? DType::kBFloat16
                                                                    : DType::kFloat16;
  if (absl::Status status = FinishInputs(options, &inputs); !status.ok()) return status;
  return inputs;
}

absl::Status FinishInputs(const ProblemOptions& options, ProblemInputs* inputs) {
  AttentionProblem& problem = inputs->problem;
  problem.output_dtype =
      options.output_dtype.value_or(inputs->float32 ? DType::kFloat32 : problem.dtype);
  problem.layout = options.layout;
  problem.is_causal = options.is_causal;
  problem.softmax_scale = options.softmax_scale;
  problem.seqlens_q = options.seqlens_q;
  problem.seqlens_k = options.seqlens_k;
  inputs->prequantize = options.prequantize;
  if (absl::Status status = ValidateProblem(problem); !status.ok()) return status;
  return ReadMask(options, inputs);
}

AttendRequest MakeRequest(const ProblemInputs& inputs) {
  AttendRequest request;
  request.problem = inputs.problem;
  request.q = inputs.q;
  request.k = inputs.k;
  request.v = inputs.v;
  request.float32_inputs = inputs.float32;
  request.prequantize = inputs.prequantize;
  if (inputs.pattern) {
    request.mask = *inputs.pattern;
  } else if (!inputs.mask.full()) {
    request.mask = &inputs.mask;
  }
  return request;
}

}  // namespace sage::cli
