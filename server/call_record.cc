#include "server/call_record.h"

#include <optional>

#include "absl/status/status.h"
#include "server/errors.h"
#include "server/trace_context.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

double Seconds(CallRecord::Clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

double EffectiveTops(const AttendJob& job, double kernel_seconds) {
  return kernel_seconds > 0 ? job.problem().effective_operations() / kernel_seconds / 1e12 : 0;
}

// Which trace the call belongs to, as fields of a log line that end with a space; none where its
// caller does not say.
std::string TraceFields(const grpc::CallbackServerContext& context) {
  const auto found = context.client_metadata().find("traceparent");
  if (found == context.client_metadata().end()) return "";
  const std::optional<TraceContext> trace =
      ParseTraceParent({found->second.data(), found->second.size()});
  if (!trace.has_value()) return "";
  return fmt::format("trace_id={} span_id={} ", trace->trace_id, trace->span_id);
}

}  // namespace

CallRecord::CallRecord(const char* rpc, const grpc::CallbackServerContext& context)
    : rpc_(rpc),
      peer_(context.peer()),
      trace_(TraceFields(context)),
      deadline_(context.deadline()) {}

absl::Status CallRecord::ClientLeft() const {
  // A client's own clock ends the call a moment before the server's does: what is left travels
  // rounded up, by as much as a hundredth.
  const auto rounding = (deadline_ - called_) / 100 + std::chrono::milliseconds(10);
  if (deadline_ - std::chrono::system_clock::now() <= rounding) {
    return absl::DeadlineExceededError("the deadline passed before the request had ended");
  }
  return absl::CancelledError("the client ended the request");
}

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
  ++units_done_;
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

const char* CallRecord::Progress(const AttendJob* job) const {
  if (job == nullptr) return bytes_in_ + bytes_out_ == 0 ? "header" : "transfer";
  if (!job->payload_complete()) return "receive";
  return units_done_ < job->units().size() ? "compute" : "send";
}

void CallRecord::Close(const absl::Status& status, const AttendJob* job, Metrics& metrics) const {
  RequestOutcome outcome;
  outcome.rpc = rpc_;
  outcome.status = status;
  const bool begun = job != nullptr || bytes_in_ + bytes_out_ > 0;
  if (!begun && !stalled_) outcome.refused_for = RefusalReason(status);
  if (absl::IsCancelled(status)) outcome.cancelled_at = Progress(job);
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
  // Callers without credentials may come in any number: Callers logs them, a few a second.
  const bool unknown = absl::IsUnauthenticated(status) || absl::IsPermissionDenied(status);
  const auto trouble = unknown ? spdlog::level::debug : spdlog::level::warn;
  spdlog::log(
      status.ok() ? spdlog::level::info : trouble,
      "event=request request_id={} {}rpc={} peer={} code={} shape={} density={:.3f} bytes_in={} "
      "bytes_out={} total_ms={:.3f} kernel_ms={:.3f} message=\"{}\"",
      job == nullptr ? "-" : job->request_id(), trace_, rpc_, peer_,
      absl::StatusCodeToString(status.code()), shape, outcome.block_density, bytes_in_, bytes_out_,
      outcome.seconds.total * 1e3, outcome.seconds.kernel * 1e3, std::string(status.message()));
}

}  // namespace sage::server
