#include "client/internal/stripes.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace sage::internal {
namespace {

// Smaller stripes would take longer to begin and end than they gain.
constexpr std::int64_t kSmallestStripeBytes = 8 << 20;
// Keys and values sent again may cost this part of the whole payload.
constexpr std::int64_t kRepeatedPart = 4;

struct Range {
  std::int64_t begin = 0;
  std::int64_t count = 0;
};

// Part `index` of `parts` nearly equal ones.
Range PartOf(std::int64_t size, std::int64_t parts, std::int64_t index) {
  const std::int64_t begin = size * index / parts;
  return {begin, size * (index + 1) / parts - begin};
}

// Into how many parts each dimension is cut.
struct Cut {
  std::int64_t batch = 1;
  std::int64_t kv_heads = 1;
  std::int64_t group = 1;  // query heads of one KV head
};

Cut CutFor(const AttendRequest& request, std::int64_t connections) {
  const AttentionProblem& p = request.problem;
  // In parts, since tensors may be as large as 2^62 elements.
  const ResidentTensors& resident = request.resident;
  const auto bytes = [](std::int64_t elements, DType dtype, const RemoteTensor* there) {
    return there != nullptr ? 0
                            : static_cast<double>(elements) * static_cast<double>(SizeOf(dtype));
  };
  const double kv_bytes =
      bytes(p.kv_elements(), p.dtype, resident.k) + bytes(p.kv_elements(), p.dtype, resident.v);
  const double up_bytes = bytes(p.q_elements(), p.dtype, resident.q) + kv_bytes;
  const double down_bytes = bytes(p.q_elements(), p.output_dtype, resident.out);
  const double most = std::max(up_bytes, down_bytes) / static_cast<double>(kSmallestStripeBytes);
  if (most < static_cast<double>(connections)) connections = static_cast<std::int64_t>(most);
  Cut cut;
  cut.batch = std::clamp<std::int64_t>(connections, 1, p.batch);
  // Heads of an NHD tensor lie apart, and what is quantised here must lie in one stretch.
  if (request.prequantize && p.layout == Layout::kNhd) return cut;
  connections /= cut.batch;
  cut.kv_heads = std::clamp<std::int64_t>(connections, 1, p.num_heads_kv);
  if (cut.kv_heads < p.num_heads_kv) return cut;
  connections /= cut.kv_heads;
  cut.group = std::clamp<std::int64_t>(connections, 1, p.group_size());
  while (cut.group > 1 &&
         static_cast<double>(cut.group - 1) * kv_bytes * kRepeatedPart > up_bytes) {
    --cut.group;
  }
  return cut;
}

// The packed mask of some batch entries and query heads, or none where the whole one serves.
std::shared_ptr<const BlockMask> CutMask(const BlockMask& whole, const AttentionProblem& problem,
                                         Range batch, Range heads) {
  if (whole.full() || (whole.batch() == 1 && whole.heads() == 1)) return nullptr;
  if (whole.batch() == 1) batch = {0, 1};
  if (whole.heads() == 1) heads = {0, 1};
  const std::int64_t head_bytes = whole.tiles_q() * whole.row_bytes();
  std::vector<std::uint8_t> bits;
  bits.reserve(batch.count * heads.count * head_bytes);
  for (std::int64_t b = batch.begin; b < batch.begin + batch.count; ++b) {
    const auto from = whole.bits().subspan((b * whole.heads() + heads.begin) * head_bytes,
                                           heads.count * head_bytes);
    bits.insert(bits.end(), from.begin(), from.end());
  }
  // Cannot fail: the whole mask fits the whole problem.
  return std::make_shared<const BlockMask>(
      *BlockMask::FromPacked(problem, batch.count, heads.count, bits));
}

std::vector<std::int64_t> EntriesOf(const std::vector<std::int64_t>& lengths, Range batch) {
  if (lengths.empty()) return {};
  return {lengths.begin() + batch.begin, lengths.begin() + batch.begin + batch.count};
}

// The first element of some batch entries and heads of a tensor; null where it is resident.
template <typename Pointer>
Pointer At(Pointer tensor, const AttentionProblem& p, std::int64_t heads, std::int64_t rows,
           std::int64_t width_bytes, std::int64_t batch, std::int64_t head) {
  if (tensor == nullptr) return nullptr;
  const std::int64_t head_bytes = p.layout == Layout::kHnd ? rows * width_bytes : width_bytes;
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const std::byte,
                                  std::byte>;
  return static_cast<Byte*>(tensor) + batch * heads * rows * width_bytes + head * head_bytes;
}

Stripe MakeStripe(const AttendRequest& whole, Range batch, Range kv_heads, Range heads) {
  const AttentionProblem& p = whole.problem;
  Stripe stripe{whole, {p.num_heads_q, p.num_heads_kv}, nullptr, std::nullopt};
  if (whole.resident.any()) stripe.begin = {batch.begin, heads.begin, kv_heads.begin};
  AttendRequest& request = stripe.request;
  request.problem.batch = batch.count;
  request.problem.num_heads_kv = kv_heads.count;
  request.problem.num_heads_q = heads.count;
  request.problem.seqlens_q = EntriesOf(p.seqlens_q, batch);
  request.problem.seqlens_k = EntriesOf(p.seqlens_k, batch);
  const auto in = static_cast<std::int64_t>(whole.float32_inputs ? sizeof(float) : SizeOf(p.dtype));
  const auto out = static_cast<std::int64_t>(SizeOf(p.output_dtype));
  const Int8Operands given = {whole.q_scales.scales != nullptr, whole.k_scales.scales != nullptr};
  request.q = At(whole.q, p, p.num_heads_q, p.seqlen_q, p.head_dim * (given.q ? 1 : in),
                 batch.begin, heads.begin);
  request.k = At(whole.k, p, p.num_heads_kv, p.seqlen_k, p.head_dim * (given.k ? 1 : in),
                 batch.begin, kv_heads.begin);
  // Where heads are cut, the stripe is about one batch entry, so that its scales lie together.
  const std::int64_t head_q = batch.begin * p.num_heads_q + heads.begin;
  const std::int64_t head_kv = batch.begin * p.num_heads_kv + kv_heads.begin;
  if (given.q) {
    request.q_scales.scales += head_q * p.seqlen_q;
    if (p.return_lse) request.q_scales.dot_smoothing += head_q * p.seqlen_q;
  }
  if (given.k) {
    request.k_scales.scales += head_kv * p.blocks_k();
    request.k_scales.smoothing += head_kv * p.head_dim;
  }
  request.v =
      At(whole.v, p, p.num_heads_kv, p.seqlen_k, p.head_dim * in, batch.begin, kv_heads.begin);
  request.out =
      At(whole.out, p, p.num_heads_q, p.seqlen_q, p.head_dim * out, batch.begin, heads.begin);
  if (whole.lse != nullptr) {
    request.lse += head_q * p.seqlen_q;
  }
  if (const auto* mask = std::get_if<const BlockMask*>(&whole.mask)) {
    stripe.mask = CutMask(**mask, request.problem, batch, heads);
    if (stripe.mask != nullptr) request.mask = stripe.mask.get();
  }
  return stripe;
}

}  // namespace

std::vector<Stripe> PlanStripes(const AttendRequest& request, int connections) {
  const AttentionProblem& p = request.problem;
  const Cut cut = CutFor(request, connections);
  std::vector<Stripe> stripes;
  for (std::int64_t b = 0; b < cut.batch; ++b) {
    for (std::int64_t h = 0; h < cut.kv_heads; ++h) {
      for (std::int64_t g = 0; g < cut.group; ++g) {
        const Range kv_heads = PartOf(p.num_heads_kv, cut.kv_heads, h);
        const Range group = PartOf(p.group_size(), cut.group, g);
        // Where groups are cut, there is one KV head.
        const Range heads = {kv_heads.begin * p.group_size() + group.begin,
                             kv_heads.count * group.count};
        stripes.push_back(MakeStripe(request, PartOf(p.batch, cut.batch, b), kv_heads, heads));
      }
    }
  }
  return stripes;
}

}  // namespace sage::internal
