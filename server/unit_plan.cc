#include "server/unit_plan.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"

namespace sage::server {
namespace {

// Heads and query rows of one unit.
struct Cut {
  std::int64_t kv_heads = 1;
  std::int64_t q_rows = 0;

  std::uint64_t units(const AttentionProblem& p) const {
    return static_cast<std::uint64_t>(p.batch) * CeilDiv(p.num_heads_kv, kv_heads) *
           CeilDiv(p.seqlen_q, q_rows);
  }
};

// Query rows of a unit whose queries, `row_bytes` a row, stay within `unit_bytes`: ranges of equal
// length, so that the last one is not a sliver.
std::int64_t QueryRows(const AttentionProblem& p, std::uint64_t row_bytes,
                       std::uint64_t unit_bytes) {
  const std::int64_t tiles = std::max<std::int64_t>(1, unit_bytes / row_bytes / kBlockM);
  const std::int64_t ranges = CeilDiv(p.tiles_q(), tiles);
  return std::min(p.seqlen_q, CeilDiv(p.tiles_q(), ranges) * kBlockM);
}

// Bytes of an element on the wire.
std::uint64_t ElementBytes(const AttentionProblem& p, bool quantized) {
  return quantized ? 1 : SizeOf(p.dtype);
}

// The largest cut whose units stay within `unit_bytes`, whole heads before query ranges.
Cut CutFor(const AttentionProblem& p, std::uint64_t unit_bytes, Resident resident,
           Quantized quantized) {
  const std::uint64_t q_row_bytes = p.group_size() * p.head_dim * ElementBytes(p, quantized.q);
  const std::uint64_t v_head_bytes = p.seqlen_k * p.head_dim * SizeOf(p.dtype);
  if (resident.k && resident.v) {
    const std::int64_t kv_heads = KvHeadsPerUnit(p.num_heads_kv, v_head_bytes, unit_bytes);
    return {.kv_heads = kv_heads, .q_rows = QueryRows(p, kv_heads * q_row_bytes, unit_bytes)};
  }
  const std::uint64_t k_head_bytes = p.seqlen_k * p.head_dim * ElementBytes(p, quantized.k);
  const std::uint64_t head_bytes = q_row_bytes * p.seqlen_q + k_head_bytes + v_head_bytes;
  if (head_bytes <= unit_bytes) {
    return {.kv_heads = std::min<std::int64_t>(p.num_heads_kv, unit_bytes / head_bytes),
            .q_rows = p.seqlen_q};
  }
  return {.kv_heads = 1, .q_rows = QueryRows(p, q_row_bytes, unit_bytes)};
}

// The payload that units aim at, by how much there is to compute for it.
std::uint64_t UnitBytes(const AttentionProblem& p, const PlanLimits& limits) {
  if (limits.unit_operations <= 0) return limits.unit_bytes;
  const auto queries = static_cast<double>(p.group_size() * p.seqlen_q);
  const auto keys = static_cast<double>(p.seqlen_k);
  // Both of one KV head, over head_dim.
  const double bytes = (queries + 2 * keys) * static_cast<double>(SizeOf(p.dtype));
  const double operations = 4 * queries * keys;
  const double aim = limits.unit_operations * bytes / operations;
  const auto middle = static_cast<double>(limits.unit_bytes);
  return static_cast<std::uint64_t>(std::clamp(aim, middle / 2, middle * 2));
}

}  // namespace

std::int64_t KvHeadsPerUnit(std::int64_t num_heads_kv, std::uint64_t head_bytes,
                            std::uint64_t unit_bytes) {
  const std::uint64_t fitting = std::max<std::uint64_t>(1, unit_bytes / (2 * head_bytes));
  const auto all = static_cast<std::uint64_t>(num_heads_kv);
  return static_cast<std::int64_t>(fitting >= all ? all : std::bit_floor(fitting));
}

absl::StatusOr<std::vector<Unit>> PlanUnits(const AttentionProblem& p, const PlanLimits& limits,
                                            Resident resident, Quantized quantized) {
  if (static_cast<std::uint64_t>(p.batch) > limits.max_units) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch: got ", p.batch, ", allowed at most ", limits.max_units));
  }
  // Prepared keys that are kept go by one cut of their heads for all requests.
  const bool keeps_cut = resident.k && resident.v;
  std::uint64_t unit_bytes = keeps_cut ? limits.unit_bytes : UnitBytes(p, limits);
  Cut cut = CutFor(p, unit_bytes, resident, quantized);
  // Ends: a unit may grow to a whole batch entry, of which there are few enough.
  while (cut.units(p) > limits.max_units) cut = CutFor(p, unit_bytes *= 2, resident, quantized);

  const std::uint64_t kv_head_elements = p.seqlen_k * p.head_dim;
  std::vector<Unit> units;
  units.reserve(cut.units(p));
  for (std::int64_t b = 0; b < p.batch; ++b) {
    for (std::int64_t head = 0; head < p.num_heads_kv; head += cut.kv_heads) {
      const auto carrier = static_cast<std::uint32_t>(units.size());
      for (std::int64_t q = 0; q < p.seqlen_q; q += cut.q_rows) {
        Unit unit;
        unit.batch = b;
        unit.kv_head_begin = head;
        unit.kv_head_count = std::min(cut.kv_heads, p.num_heads_kv - head);
        unit.q_begin = q;
        unit.q_count = std::min(cut.q_rows, p.seqlen_q - q);
        unit.kv_unit = carrier;
        const std::uint64_t rows = unit.kv_head_count * p.group_size() * unit.q_count;
        if (!resident.q) unit.q_bytes = rows * p.head_dim * ElementBytes(p, quantized.q);
        if (!resident.out) unit.out_bytes = rows * p.head_dim * SizeOf(p.output_dtype);
        if (p.return_lse) unit.lse_bytes = rows * sizeof(float);
        const std::uint64_t kv_elements = q == 0 ? unit.kv_head_count * kv_head_elements : 0;
        if (!resident.k) unit.k_bytes = kv_elements * ElementBytes(p, quantized.k);
        if (!resident.v) unit.v_bytes = kv_elements * SizeOf(p.dtype);
        units.push_back(unit);
      }
    }
  }
  return units;
}

}  // namespace sage::server
