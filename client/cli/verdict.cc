#include "client/cli/verdict.h"

#include <cmath>
#include <cstddef>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/problem_text.h"

namespace sage::cli {
namespace {

// Largest relative L2 that N(0, 1)-like data shows in each precision, with margin.
double RelativeL2Limit(const AttentionProblem& problem) {
  switch (problem.precision) {
    case Precision::kQkInt8PvFp16:
      return 0.03;
    case Precision::kQkInt8PvFp8:
      return 0.06;
    case Precision::kFp16:
      return problem.dtype == DType::kBFloat16 || problem.output_dtype == DType::kBFloat16 ? 0.01
                                                                                           : 0.002;
  }
  return 0;
}

// The same for lse, as Comparison has it. Exact scores err by fp32 rounding alone; int8 scores by
// the rounding of both operands, which a row with a single visible key shows in full.
double LseLimit(Precision precision) { return precision == Precision::kFp16 ? 0.002 : 0.1; }

void Judge(Verdict* verdict) {
  const Comparison& comparison = verdict->comparison;
  // Written so that NaN fails.
  if (!(comparison.out.relative_l2 <= verdict->limit)) {
    verdict->faults.push_back(absl::StrFormat("relative L2 %.6f is over the limit of %.6f",
                                              comparison.out.relative_l2, verdict->limit));
  }
  const double lse_limit = LseLimit(verdict->problem.precision);
  if (!(comparison.lse_error <= lse_limit)) {
    verdict->faults.push_back(absl::StrFormat("lse is off by %.6f, over the limit of %.6f",
                                              comparison.lse_error, lse_limit));
  }
  if (comparison.wrong_empty_rows > 0) {
    verdict->faults.push_back(
        absl::StrFormat("%d rows without a visible key are not exactly 0 with lse -inf",
                        comparison.wrong_empty_rows));
  }
}

}  // namespace

absl::StatusOr<Verdict> Verify(Client* client, const ProblemInputs& inputs,
                               std::optional<double> limit, std::uint64_t seed,
                               const ResidentKv* resident,
                               std::function<void(std::int64_t, std::int64_t)> on_unit_done) {
  AttendRequest request = MakeRequest(inputs);
  request.problem.return_lse = true;
  if (resident != nullptr) resident->Use(&request);
  const AttentionProblem& problem = request.problem;
  // NaN in every dtype, so that what the server leaves out shows.
  std::vector<std::byte> out(problem.q_elements() * SizeOf(problem.output_dtype), std::byte{0xff});
  std::vector<float> lse(problem.lse_elements(), std::nanf(""));
  request.out = out.data();
  request.lse = lse.data();
  request.on_unit_done = std::move(on_unit_done);
  absl::StatusOr<AttendReport> report = client->Attend(request);
  if (!report.ok()) return report.status();

  const std::vector<std::uint8_t> dense = inputs.mask.ToDense();
  const ReferenceInputs reference = {.q = inputs.q,
                                     .k = inputs.k,
                                     .v = inputs.v,
                                     .mask = inputs.mask.full() ? nullptr : dense.data(),
                                     .mask_batch = inputs.mask.batch(),
                                     .mask_heads = inputs.mask.heads()};
  Verdict verdict;
  verdict.problem = problem;
  verdict.report = *std::move(report);
  verdict.comparison = CompareWithReference(problem, reference, out.data(), lse.data(), seed);
  verdict.limit = limit.value_or(RelativeL2Limit(problem));
  Judge(&verdict);
  return verdict;
}

nlohmann::ordered_json VerdictJson(const Verdict& verdict) {
  const Comparison& comparison = verdict.comparison;
  return {{"cosine", JsonNumber(comparison.out.cosine)},
          {"relative_l1", JsonNumber(comparison.out.relative_l1)},
          {"relative_l2", JsonNumber(comparison.out.relative_l2)},
          {"limit", verdict.limit},
          {"lse_error", JsonNumber(comparison.lse_error)},
          {"wrong_empty_rows", comparison.wrong_empty_rows},
          {"rows_checked", comparison.rows_checked},
          {"rows", comparison.rows},
          {"passed", verdict.passed()}};
}

}  // namespace sage::cli
