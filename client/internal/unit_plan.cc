#include "client/internal/unit_plan.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"

namespace sage::internal {
namespace {

// Chunks are cut at multiples of this, so that none splits an element.
constexpr std::uint64_t kSmallestChunkBytes = 16;

absl::Status BadPlan(int unit, const std::string& what) {
  return absl::InternalError(absl::StrCat("server's plan is not usable: unit ", unit, " ", what));
}

absl::Status CheckRanges(const AttentionProblem& problem, const v1::Accepted& accepted, int index) {
  const v1::Unit& unit = accepted.units(index);
  const auto within = [](std::int64_t begin, std::int64_t count, std::int64_t size) {
    return begin >= 0 && count >= 1 && begin < size && count <= size - begin;
  };
  if (!within(unit.batch(), 1, problem.batch)) {
    return BadPlan(index, absl::StrCat("has batch ", unit.batch(), " of ", problem.batch));
  }
  if (!within(unit.kv_head_begin(), unit.kv_head_count(), problem.num_heads_kv)) {
    return BadPlan(index, absl::StrCat("has KV heads from ", unit.kv_head_begin(), ", ",
                                       unit.kv_head_count(), " of ", problem.num_heads_kv));
  }
  if (!within(unit.q_begin(), unit.q_count(), problem.seqlen_q)) {
    return BadPlan(index, absl::StrCat("has query rows from ", unit.q_begin(), ", ", unit.q_count(),
                                       " of ", problem.seqlen_q));
  }
  const std::int64_t q_end = unit.q_begin() + unit.q_count();
  if (unit.q_begin() % kBlockM != 0 || (q_end % kBlockM != 0 && q_end != problem.seqlen_q)) {
    return BadPlan(index, "is not cut at multiples of 128 query rows");
  }
  if (unit.kv_unit() > static_cast<std::uint32_t>(index)) {
    return BadPlan(index,
                   absl::StrCat("takes k and v from unit ", unit.kv_unit(), ", which comes later"));
  }
  const v1::Unit& carrier = accepted.units(static_cast<int>(unit.kv_unit()));
  if (carrier.kv_unit() != unit.kv_unit() || carrier.batch() != unit.batch() ||
      carrier.kv_head_begin() != unit.kv_head_begin() ||
      carrier.kv_head_count() != unit.kv_head_count()) {
    return BadPlan(index, absl::StrCat("takes k and v from unit ", unit.kv_unit(),
                                       ", which does not carry those heads"));
  }
  return absl::OkStatus();
}

PlannedUnit Locate(const AttentionProblem& problem, HeadsInMemory heads, const v1::Unit& unit,
                   bool carries_kv, const QkForm& qk, const ResidentTensors& resident,
                   const UsedBlocks* used) {
  const auto width = [&problem](DType dtype) {
    return problem.head_dim * static_cast<std::int64_t>(SizeOf(dtype));
  };
  const std::int64_t q_width = qk.int8.q ? problem.head_dim : width(problem.dtype);
  const std::int64_t k_width = qk.int8.k ? problem.head_dim : width(problem.dtype);
  const HeadsInMemory qk_heads =
      qk.made_here ? HeadsInMemory{problem.num_heads_q, problem.num_heads_kv} : heads;
  const auto rows_of_queries = [&problem](Layout layout, std::int64_t heads_q,
                                          std::int64_t width_bytes) {
    return TensorExtent{layout, heads_q, problem.seqlen_q, width_bytes};
  };
  const std::int64_t group = problem.group_size();
  const TensorRange queries{unit.batch(), unit.kv_head_begin() * group,
                            unit.kv_head_count() * group, unit.q_begin(), unit.q_count()};

  PlannedUnit planned;
  if (!resident.q) {
    planned.q = RunsOf(rows_of_queries(problem.layout, qk_heads.q, q_width), queries);
  }
  if (!resident.out) {
    planned.out =
        RunsOf(rows_of_queries(problem.layout, heads.q, width(problem.output_dtype)), queries);
  }
  if (problem.return_lse) {
    planned.lse = RunsOf(rows_of_queries(Layout::kHnd, heads.q, sizeof(float)), queries);
  }
  if (carries_kv) {
    const TensorRange keys{unit.batch(), unit.kv_head_begin(), unit.kv_head_count(), 0,
                           problem.seqlen_k};
    const MayLeaveOut may = UnusedMayBeLeftOut(problem.precision, qk.int8.k);
    const auto place = [&](const TensorExtent& whole, bool may_leave_out) -> TensorPiece {
      const PieceRuns all = RunsOf(whole, keys);
      if (used == nullptr || !may_leave_out) return all;
      TensorPiece some(whole, keys, used->RowsOf(keys.batch, keys.head_begin, keys.head_count));
      planned.omitted_bytes += all.bytes() - some.bytes();
      return some;
    };
    if (!resident.k) {
      planned.k = place({problem.layout, qk_heads.kv, problem.seqlen_k, k_width}, may.k);
    }
    if (!resident.v) {
      planned.v = place({problem.layout, heads.kv, problem.seqlen_k, width(problem.dtype)}, may.v);
    }
  }
  return planned;
}

// Which tiles of which KV heads some unit has claimed.
class Coverage {
 public:
  explicit Coverage(const AttentionProblem& problem)
      : heads_(problem.num_heads_kv),
        tiles_(problem.tiles_q()),
        missing_(problem.batch * heads_ * tiles_),
        claimed_(static_cast<std::size_t>(missing_)) {}

  // False where a tile was claimed before.
  bool Claim(const v1::Unit& unit) {
    const std::int64_t tile_begin = unit.q_begin() / kBlockM;
    const std::int64_t tile_end = CeilDiv(unit.q_begin() + unit.q_count(), kBlockM);
    for (std::int64_t h = 0; h < unit.kv_head_count(); ++h) {
      const std::int64_t row = (unit.batch() * heads_ + unit.kv_head_begin() + h) * tiles_;
      for (std::int64_t tile = tile_begin; tile < tile_end; ++tile) {
        if (claimed_[row + tile]) return false;
        claimed_[row + tile] = true;
        --missing_;
      }
    }
    return true;
  }

  std::int64_t missing() const { return missing_; }

 private:
  const std::int64_t heads_;
  const std::int64_t tiles_;
  std::int64_t missing_;
  std::vector<bool> claimed_;
};

}  // namespace

absl::StatusOr<UnitPlan> CheckPlan(const AttentionProblem& problem, HeadsInMemory heads,
                                   const v1::Accepted& accepted, const QkForm& qk,
                                   const ResidentTensors& resident, const UsedBlocks* used) {
  if (!accepted.omits_unused_kv()) used = nullptr;
  UnitPlan plan;
  plan.units.reserve(accepted.units_size());
  constexpr std::uint64_t kLargest = std::numeric_limits<std::int64_t>::max();
  plan.window_bytes = static_cast<std::int64_t>(std::min(accepted.window_bytes(), kLargest));
  plan.max_chunk_bytes = static_cast<std::int64_t>(std::min(accepted.max_chunk_bytes(), kLargest));
  if (accepted.max_chunk_bytes() < kSmallestChunkBytes) {
    return absl::InternalError(absl::StrCat("server's plan is not usable: chunks of ",
                                            accepted.max_chunk_bytes(), " bytes at most"));
  }

  Coverage coverage(problem);
  for (int i = 0; i < accepted.units_size(); ++i) {
    if (absl::Status status = CheckRanges(problem, accepted, i); !status.ok()) return status;
    if (!coverage.Claim(accepted.units(i))) {
      return BadPlan(i, "repeats query rows of an earlier unit");
    }
    const bool carries_kv = accepted.units(i).kv_unit() == static_cast<std::uint32_t>(i);
    plan.units.push_back(Locate(problem, heads, accepted.units(i), carries_kv, qk, resident, used));
    if (plan.units.back().window_bytes() > plan.window_bytes) {
      return BadPlan(
          i, absl::StrCat("has ", plan.units.back().window_bytes(),
                          " bytes of payload, more than the window of ", plan.window_bytes));
    }
  }
  if (coverage.missing() > 0) {
    return absl::InternalError(absl::StrCat("server's plan is not usable: ", coverage.missing(),
                                            " tiles of 128 query rows are in no unit"));
  }
  return plan;
}

}  // namespace sage::internal
