#include "server/unit_costs.h"

#include <algorithm>
#include <vector>

namespace sage::server {
namespace {

// Pairs of a query row and a key that exist for one query head of a unit; masks not counted.
double VisiblePairs(const AttentionProblem& problem, const Unit& unit) {
  const std::int64_t length_q = problem.length_q(unit.batch);
  const std::int64_t length_k = problem.length_k(unit.batch);
  const std::int64_t end = std::min(unit.q_begin + unit.q_count, length_q);
  if (!problem.is_causal) {
    return static_cast<double>(std::max<std::int64_t>(0, end - unit.q_begin)) *
           static_cast<double>(length_k);
  }
  // Row r sees r + 1 + shift keys, from the first row that sees any.
  const std::int64_t shift = length_k - length_q;
  const std::int64_t begin = std::max(unit.q_begin, -shift);
  if (begin >= end) return 0;
  return static_cast<double>(end - begin) * static_cast<double>(begin + 1 + end + 2 * shift) / 2;
}

}  // namespace

MemoryCost UnitCosts::HostMemory(const Unit& unit) const {
  return {
      .own = SlabPool::RoundUp(payload_.QueryBytes(unit)) +
             SlabPool::RoundUp(unit.out_bytes + unit.lse_bytes),
      .kv = SlabPool::RoundUp(payload_.KeyBytes(unit) + unit.v_bytes + payload_.UsedBytes(unit))};
}

MemoryCost UnitCosts::DeviceMemory(const Unit& unit) const {
  const AttendTask task = tasks_.Make(unit);
  MemoryCost cost = {.own = SlabPool::RoundUp(device_.backend().AttendWorkspaceBytes({&task, 1})),
                     .kv = 0};
  if (unit.q_begin == 0 && tasks_.KeptKv(unit) == nullptr) {
    cost.kv = SlabPool::RoundUp(device_.backend().PreparedKvBytes(task.kv));
  }
  if (!device_.backend().info().unified_memory) {
    const MemoryCost copies = HostMemory(unit);
    cost.own += copies.own;
    cost.kv += copies.kv;
  }
  return cost;
}

std::uint64_t UnitCosts::Peak(MemoryCost (UnitCosts::*cost)(const Unit&) const,
                              std::uint64_t window_bytes) const {
  // Slide over the units: those before `last` are sent whole and unanswered, `last` has begun.
  // Their KV groups are held until the last unit of each group has been answered.
  const std::vector<Unit>& units = payload_.units();
  std::uint64_t peak = 0;
  std::uint64_t held = 0;
  std::uint64_t flow = 0;  // of units first .. last - 1
  std::uint32_t first = 0;
  for (std::uint32_t last = 0; last < units.size(); ++last) {
    for (; flow >= window_bytes; ++first) {
      held -= (this->*cost)(units[first]).own;
      if (payload_.IsLastOfGroup(first)) held -= (this->*cost)(units[units[first].kv_unit]).kv;
      flow -= payload_.FlowBytes(units[first]);
    }
    const MemoryCost added = (this->*cost)(units[last]);
    held += added.own + added.kv;
    peak = std::max(peak, held);
    flow += payload_.FlowBytes(units[last]);
  }
  return peak;
}

DeviceWork UnitCosts::Work(const Unit& unit, double block_density) const {
  const AttentionProblem& problem = tasks_.problem();
  DeviceWork work;
  work[DeviceWork::kLaunches] = 1;
  const double pairs = VisiblePairs(problem, unit) * block_density;
  const auto heads = static_cast<double>(unit.kv_head_count * problem.group_size());
  const std::int64_t width = problem.head_dim > 64 ? 128 : 64;  // of the kernel
  work[DeviceWork::Operations(problem.precision, problem.head_dim)] =
      4 * pairs * heads * static_cast<double>(width);
  if (unit.q_begin == 0 && tasks_.KeptKv(unit) == nullptr) {
    work[DeviceWork::ElementsPrepared(problem.precision)] =
        static_cast<double>(unit.kv_head_count * problem.length_k(unit.batch) * problem.head_dim);
  }
  if (!device_.backend().info().unified_memory) {
    work[DeviceWork::kBytesCopied] =
        static_cast<double>(payload_.QueryBytes(unit) + payload_.KeyBytes(unit) + unit.v_bytes +
                            unit.out_bytes + unit.lse_bytes);
  }
  return work;
}

double UnitCosts::EstimatedSeconds(double block_density) const {
  DeviceWork work;
  for (const Unit& unit : payload_.units()) work += Work(unit, block_density);
  return device_.engine().cost_model().Seconds(work);
}

}  // namespace sage::server
