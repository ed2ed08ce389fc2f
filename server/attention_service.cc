#include "server/attention_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "proto/wire/random_id.h"
#include "server/attend_call.h"
#include "server/attend_stream_call.h"
#include "server/codec.h"
#include "server/errors.h"
#include "server/refused_call.h"

namespace sage::server {
namespace {

// Another server of the same service can take the request right away.
constexpr std::chrono::milliseconds kDrainRetryDelay{1000};

std::chrono::steady_clock::time_point SteadyDeadline(const grpc::CallbackServerContext& context,
                                                     std::chrono::milliseconds default_deadline) {
  const auto system_deadline = context.deadline();
  if (system_deadline == std::chrono::system_clock::time_point::max()) {
    return std::chrono::steady_clock::now() + default_deadline;
  }
  // A century is beyond any deadline, and small enough to add to the clock.
  const auto left = std::min<std::chrono::system_clock::duration>(
      system_deadline - std::chrono::system_clock::now(), std::chrono::hours(24 * 36500));
  return std::chrono::steady_clock::now() + left;
}

}  // namespace

absl::Status AttentionCore::CheckOpen() const {
  const char* why = nullptr;
  if (draining.load(std::memory_order_relaxed)) why = "the server is draining; try another";
  if (device_lost.load(std::memory_order_relaxed)) {
    why = "the server has lost its device; try another";
  }
  if (why == nullptr) return absl::OkStatus();
  return WithRetryDelay(absl::UnavailableError(why), kDrainRetryDelay);
}

absl::StatusOr<std::unique_ptr<AttendJob>> AttentionCore::StartJob(
    const std::string& tenant, const v1::AttendHeader& header,
    const grpc::CallbackServerContext& context, Delivery delivery) {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  absl::StatusOr<JobSpec> spec = DecodeHeader(header, max_mask_bytes, {tensors, tenant, server_id});
  if (!spec.ok()) return spec.status();
  if (spec->request_id.empty()) spec->request_id = RandomId();
  spec->tenant = tenant;
  spec->deadline = SteadyDeadline(context, default_deadline);
  if (std::chrono::steady_clock::now() >= spec->deadline) {
    return absl::DeadlineExceededError("the deadline had passed when the request arrived");
  }
  spec->whole_entries = delivery.whole_entries;
  spec->line = std::move(delivery.line);
  Device* const device = spec->resident.device();
  absl::StatusOr<std::unique_ptr<AttendJob>> job =
      device != nullptr ? AttendJob::Create(*std::move(spec), jobs, *device, delivery.window_bytes)
                        : StartAnywhere(*spec, delivery.window_bytes);
  // A drain that began meanwhile may have found nothing admitted, and then waits for nobody.
  if (absl::Status open = CheckOpen(); job.ok() && !open.ok()) return open;
  return job;
}

absl::StatusOr<std::unique_ptr<AttendJob>> AttentionCore::StartAnywhere(
    const JobSpec& spec, std::uint64_t window_bytes) {
  absl::StatusOr<std::unique_ptr<AttendJob>> job = absl::InternalError("there is no device");
  for (Device* device : ByLoad(devices)) {
    job = AttendJob::Create(spec, jobs, *device, window_bytes);
    // One whose memory is taken by what stays may have the shortest queue for long.
    if (job.ok() || !absl::StartsWith(job.status().message(), "server.device_bytes")) break;
  }
  return job;
}

grpc::ServerUnaryReactor* AttentionService::Attend(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* response) {
  absl::StatusOr<Caller> caller = callers_.Admit(*context);
  if (!caller.ok()) {
    return Refuse<grpc::ServerUnaryReactor>("Attend", *context, caller.status(), core_.metrics);
  }
  return StartAttendCall(core_, *std::move(caller), *context, *request, *response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* AttentionService::AttendStream(
    grpc::CallbackServerContext* context) {
  absl::StatusOr<Caller> caller = callers_.Admit(*context);
  if (!caller.ok()) {
    return Refuse<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>>(
        "AttendStream", *context, caller.status(), core_.metrics);
  }
  return StartAttendStreamCall(core_, *std::move(caller), *context);
}

}  // namespace sage::server
