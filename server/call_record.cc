#include "server/call_record.h"

#include "absl/status/status.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

double Seconds(CallRecord::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

double EffectiveTops(const AttendJob& job, double kernel_seconds) {
  return kernel_seconds > 0 ? job.problem().effective_operations() / kernel_seconds / 1e12 : 0;
}

}  // namespace

void CallRecord::PayloadReceived(std::uint64_t bytes) {
  last_in_ = Clock::now();
  if (bytes_in_ == 0) first_in_ = last_in_;
  bytes_in_ += bytes;
}

void CallRecord::OutputSent(std::uint64_t bytes) {
  last_out_ = Clock::now();
  if (bytes_out_ == 0) first_out_ = last_out_;
  bytes_out_ += bytes;
}

void CallRecord::UnitDone(const UnitTimings& timings) {
  device_.queue += timings.queue;
  device_.h2d += timings.h2d;
  device_.prepare += timings.prepare;
  device_.kernel += timings.kernel;
  device_.d2h += timings.d2h;
}

RequestOutcome::Stages CallRecord::Stages() const {
  return {.recv = Seconds(last_in_ - first_in_),
          .queue = device_.queue,
          .h2d = device_.h2d,
          .prepare = device_.prepare,
          .kernel = device_.kernel,
          .d2h = device_.d2h,
          .send = Seconds(last_out_ - first_out_),
          .total = Seconds(Clock::now() - started_)};
}

v1::AttendTrailer CallRecord::Trailer(const AttendJob& job) const {
  const RequestOutcome::Stages stages = Stages();
  v1::AttendTrailer trailer;
  trailer.set_request_id(job.request_id());
  v1::Timings& timings = *trailer.mutable_timings();
  timings.set_recv(stages.recv);
  timings.set_queue(stages.queue);
  timings.set_h2d(stages.h2d);
  timings.set_prepare(stages.prepare);
  timings.set_kernel(stages.kernel);
  timings.set_d2h(stages.d2h);
  timings.set_send(stages.send);
  timings.set_total(stages.total);
  trailer.set_effective_tops(EffectiveTops(job, stages.kernel));
  trailer.set_block_density(job.block_density());
  trailer.set_bytes_in(bytes_in_);
  trailer.set_bytes_out(bytes_out_);
  return trailer;
}

void CallRecord::Close(const absl::Status& status, const AttendJob* job, Metrics& metrics) const {
  RequestOutcome outcome;
  outcome.rpc = rpc_;
  outcome.status = status;
  outcome.rejected =
      job == nullptr && (absl::IsResourceExhausted(status) || absl::IsFailedPrecondition(status) ||
                         absl::IsUnavailable(status));
  outcome.stalled = stalled_;
  outcome.seconds = Stages();
  outcome.attended = job != nullptr;
  if (job != nullptr) {
    outcome.block_density = job->block_density();
    outcome.effective_tops = EffectiveTops(*job, outcome.seconds.kernel);
  }
  metrics.Record(outcome);
  metrics.AddPayload(bytes_in_, bytes_out_, bytes_copied_);

  const std::string shape =
      job == nullptr
          ? "-"
          : fmt::format("B{}xHq{}xHkv{}xSq{}xSk{}xD{}", job->problem().batch,
                        job->problem().num_heads_q, job->problem().num_heads_kv,
                        job->problem().seqlen_q, job->problem().seqlen_k, job->problem().head_dim);
  spdlog::log(
      status.ok() ? spdlog::level::info : spdlog::level::warn,
      "event=request request_id={} rpc={} peer={} code={} shape={} density={:.3f} bytes_in={} "
      "bytes_out={} total_ms={:.3f} kernel_ms={:.3f} message=\"{}\"",
      job == nullptr ? "-" : job->request_id(), rpc_, peer_,
      absl::StatusCodeToString(status.code()), shape, outcome.block_density, bytes_in_, bytes_out_,
      outcome.seconds.total * 1e3, outcome.seconds.kernel * 1e3, std::string(status.message()));
}

}  // namespace sage::server
