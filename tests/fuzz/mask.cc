// Masks as they come over the wire.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "sage/v1/types.pb.h"
#include "server/mask_codec.h"
#include "tests/fuzz/byte_source.h"
#include "tests/fuzz/targets.h"

namespace sage::fuzz {

void Mask(Input input) {
  ByteSource source(input);
  AttentionProblem problem;
  problem.batch = source.Range(1, 3);
  problem.num_heads_q = problem.num_heads_kv = source.Range(1, 3);
  problem.seqlen_q = 1 + source.Word() % 5000;
  problem.seqlen_k = 1 + source.Word() % 5000;
  problem.head_dim = 64;
  problem.is_causal = source.Byte() % 2 == 1;
  const Input rest = source.Rest();
  v1::BlockMask proto;
  if (!proto.ParseFromArray(rest.data(), static_cast<int>(rest.size()))) return;
  const auto decoded = server::DecodeMask(proto, problem, 1 << 20, "mask");
  if (!decoded.ok() || !decoded->make) return;
  const auto mask = decoded->make();
  if (!mask.ok()) return;
  Promise(mask->bits().size() <= decoded->bytes, "a mask is no larger than what is reserved");
  const std::vector<std::uint8_t> dense = mask->ToDense();
  Promise(std::all_of(dense.begin(), dense.end(), [](std::uint8_t block) { return block <= 1; }),
          "blocks are 0 or 1");
}

}  // namespace sage::fuzz
