#include "client/cli/mask_file.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "client/io/tensor_file.h"

namespace sage::cli {

absl::StatusOr<DenseMask> AsDenseMask(const std::string& name, const TensorView& tensor) {
  if (tensor.type != ElementType::kBool && tensor.type != ElementType::kUInt8) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": a mask is bool or uint8, this is ", Name(tensor.type)));
  }
  if (tensor.shape.size() < 2 || tensor.shape.size() > 4 || tensor.bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": a mask is [B|1, Hq|1, ceil(Sq/128), ceil(Sk/64)], this is ",
                     ShapeText(tensor.shape)));
  }
  DenseMask mask;
  mask.shape.fill(1);
  std::copy(tensor.shape.rbegin(), tensor.shape.rend(), mask.shape.rbegin());
  mask.blocks = {reinterpret_cast<const std::uint8_t*>(tensor.data),
                 static_cast<std::size_t>(tensor.bytes)};
  return mask;
}

absl::StatusOr<BlockMask> AsBlockMask(const AttentionProblem& problem, const std::string& name,
                                      const DenseMask& mask) {
  const auto [batch, heads, tiles_q, blocks_k] = mask.shape;
  if ((batch != 1 && batch != problem.batch) || (heads != 1 && heads != problem.num_heads_q) ||
      tiles_q != problem.tiles_q() || blocks_k != problem.blocks_k()) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": mask of ", ShapeText({mask.shape.begin(), mask.shape.end()}), "; for B ",
        problem.batch, ", Hq ", problem.num_heads_q, ", Sq ", problem.seqlen_q, ", Sk ",
        problem.seqlen_k, " it must be [1 or ", problem.batch, ", 1 or ", problem.num_heads_q, ", ",
        problem.tiles_q(), ", ", problem.blocks_k(), "]"));
  }
  absl::StatusOr<BlockMask> packed = BlockMask::FromDense(problem, batch, heads, mask.blocks);
  if (packed.ok()) return packed;
  return absl::Status(packed.status().code(), absl::StrCat(name, ": ", packed.status().message()));
}

absl::Status WriteMask(const std::string& path, const DenseMask& mask) {
  absl::StatusOr<TensorWriter> writer = TensorWriter::Create(
      path, {{"mask", ElementType::kBool, {mask.shape.begin(), mask.shape.end()}}});
  if (!writer.ok()) return writer.status();
  std::transform(mask.blocks.begin(), mask.blocks.end(), writer->data(0),
                 [](std::uint8_t block) { return std::byte{block != 0}; });
  return writer->Commit();
}

}  // namespace sage::cli
