#include "server/attention_service.h"

#include <algorithm>
#include <utility>

#include "server/attend_call.h"
#include "server/attend_stream_call.h"
#include "server/codec.h"
#include "server/errors.h"
#include "server/random_id.h"

namespace sage::server {
namespace {

// Another server of the same service can take the request right away.
constexpr std::chrono::milliseconds kDrainRetryDelay{1000};

std::chrono::steady_clock::time_point SteadyDeadline(const grpc::CallbackServerContext& context) {
  const auto system_deadline = context.deadline();
  if (system_deadline == std::chrono::system_clock::time_point::max()) {
    return std::chrono::steady_clock::time_point::max();
  }
  // A century is beyond any deadline, and small enough to add to the clock.
  const auto left = std::min<std::chrono::system_clock::duration>(
      system_deadline - std::chrono::system_clock::now(), std::chrono::hours(24 * 36500));
  return std::chrono::steady_clock::now() + left;
}

}  // namespace

absl::StatusOr<std::unique_ptr<AttendJob>> AttentionCore::StartJob(
    const v1::AttendHeader& header, const grpc::CallbackServerContext& context, Delivery delivery) {
  if (draining.load(std::memory_order_relaxed)) {
    return WithRetryDelay(absl::UnavailableError("the server is draining; try another"),
                          kDrainRetryDelay);
  }
  absl::StatusOr<JobSpec> spec = DecodeHeader(header, max_mask_bytes);
  if (!spec.ok()) return spec.status();
  if (spec->request_id.empty()) spec->request_id = RandomId();
  spec->deadline = SteadyDeadline(context);
  if (std::chrono::steady_clock::now() >= spec->deadline) {
    return absl::DeadlineExceededError("the deadline had passed when the request arrived");
  }
  spec->whole_entries = delivery.whole_entries;
  return AttendJob::Create(*std::move(spec), jobs, LeastLoaded(), delivery.window_bytes);
}

Device& AttentionCore::LeastLoaded() const {
  return **std::min_element(devices.begin(), devices.end(), [](Device* a, Device* b) {
    return a->memory().reserved() < b->memory().reserved();
  });
}

StallWatch::StallWatch(std::chrono::milliseconds stall_timeout)
    : period_(std::max(stall_timeout / 8, std::chrono::milliseconds(5))),
      thread_([this] { Run(); }) {}

StallWatch::~StallWatch() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void StallWatch::Add(Stallable* call) {
  const std::lock_guard lock(mutex_);
  calls_.insert(call);
}

void StallWatch::Remove(Stallable* call) {
  const std::lock_guard lock(mutex_);
  calls_.erase(call);
}

void StallWatch::Run() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, period_, [this] { return stopping_; })) {
    const auto now = std::chrono::steady_clock::now();
    for (Stallable* call : calls_) call->CheckStall(now);
  }
}

grpc::ServerUnaryReactor* AttentionService::Attend(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request,
                                                   grpc::ByteBuffer* response) {
  return StartAttendCall(core_, stalls_, *context, *request, *response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* AttentionService::AttendStream(
    grpc::CallbackServerContext* context) {
  return StartAttendStreamCall(core_, stalls_, *context);
}

}  // namespace sage::server
