#include "client/cli/bench/measurement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "client/cli/problem_text.h"
#include "client/cli/resident_kv.h"
#include "client/cli/stage_times.h"

namespace sage::cli {

Spread Summarize(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto quantile = [&values](double q) {
    const double position = q * static_cast<double>(values.size() - 1);
    const auto below = static_cast<std::size_t>(position);
    const std::size_t above = std::min(below + 1, values.size() - 1);
    return std::lerp(values[below], values[above], position - static_cast<double>(below));
  };
  return {.median = quantile(0.5),
          .q1 = quantile(0.25),
          .q3 = quantile(0.75),
          .min = values.front(),
          .max = values.back()};
}

std::string Measurement::name() const {
  return ShapeName(problem) + (generated.resident_kv ? " resident" : "");
}

const Spread& Measurement::stage(const std::string& name) const {
  return std::find_if(stages.begin(), stages.end(),
                      [&name](const auto& stage) { return stage.first == name; })
      ->second;
}

double Measurement::tops(const std::string& name) const {
  constexpr double kTera = 1e12;
  return problem.effective_operations() / stage(name).median / kTera;
}

double Measurement::gb_per_second() const {
  constexpr double kGiga = 1e9;
  return static_cast<double>(bytes_in + bytes_out) / stage("wall").median / kGiga;
}

Measurement Measure(Client* client, const GeneratedCase& generated, const ProblemInputs& inputs,
                    const MeasureOptions& options, const std::function<void()>& call_done) {
  Measurement measurement;
  measurement.generated = generated;
  measurement.problem = inputs.problem;
  AttendRequest request = MakeRequest(inputs);
  std::optional<ResidentKv> resident;
  if (generated.resident_kv) {
    absl::StatusOr<ResidentKv> put = ResidentKv::Put(client, inputs);
    if (!put.ok()) {
      measurement.status = put.status();
      return measurement;
    }
    resident = *std::move(put);
    resident->Use(&request);
  }
  std::vector<std::byte> out(inputs.problem.q_elements() * SizeOf(inputs.problem.output_dtype));
  request.out = out.data();

  std::vector<std::vector<double>> samples;
  for (int call = -options.warmup; call < options.repeat; ++call) {
    const absl::StatusOr<AttendReport> report = client->Attend(request);
    call_done();
    if (!report.ok()) {
      measurement.status = report.status();
      return measurement;
    }
    if (call < 0) continue;
    const auto times = StageTimes(*report);
    samples.resize(times.size());
    for (std::size_t i = 0; i < times.size(); ++i) samples[i].push_back(times[i].seconds);
    measurement.block_density = report->block_density;
    measurement.bytes_in = report->bytes_in;
    measurement.bytes_out = report->bytes_out;
  }
  const auto names = StageTimes({});
  for (std::size_t i = 0; i < samples.size(); ++i) {
    measurement.stages.emplace_back(names[i].name, Summarize(std::move(samples[i])));
  }
  if (options.verify) {
    absl::StatusOr<Verdict> verdict =
        Verify(client, inputs, std::nullopt, generated.shape.seed, resident ? &*resident : nullptr);
    call_done();
    if (verdict.ok()) {
      measurement.verdict = *std::move(verdict);
    } else {
      measurement.status = verdict.status();
    }
  }
  return measurement;
}

}  // namespace sage::cli
