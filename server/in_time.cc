#include "server/in_time.h"

#include <cmath>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace sage::server {
namespace {

// A queue is estimated, and the request's own payload comes late by as much as others' does:
// without a margin, a server that has too much to do would work on what comes just too late.
constexpr double kMargin = 1.25;

// For messages and retry delays: rounded up.
std::int64_t InMs(double seconds) { return std::llround(std::ceil(seconds * 1e3)); }

}  // namespace

absl::Status CheckQueue(double own, double ahead, double left, std::chrono::milliseconds limit) {
  const double most = std::chrono::duration<double>(limit).count();
  if (ahead > most) {
    // Until a part of the queue has gone, not just what is beyond the limit.
    return WithRetryDelay(
        LimitReached("server.queue_ms", absl::StrCat("the request would wait for ", InMs(ahead),
                                                     ", the limit is ", InMs(most))),
        std::chrono::milliseconds(InMs(ahead - most * 3 / 4)));
  }
  if (kMargin * ahead + own <= left) return absl::OkStatus();
  absl::Status status = absl::DeadlineExceededError(absl::StrCat(
      "the deadline cannot be met: about ", InMs(own), " ms of the device are needed, ",
      InMs(ahead), " ms are queued before, ", InMs(left), " ms are left"));
  return own < left ? WithRetryDelay(std::move(status), std::chrono::milliseconds(InMs(ahead)))
                    : status;
}

absl::Status CheckArrival(const Ingest::Arrival& arrival, double left) {
  if (kMargin * (arrival.before + arrival.own) <= left) return absl::OkStatus();
  absl::Status status = absl::DeadlineExceededError(
      absl::StrCat("the deadline cannot be met: about ", InMs(arrival.own),
                   " ms are needed to send and to answer, ", InMs(arrival.before),
                   " ms of others come before, ", InMs(left), " ms are left"));
  return arrival.before > 0 && arrival.own < left
             ? WithRetryDelay(std::move(status), std::chrono::milliseconds(InMs(arrival.before)))
             : status;
}

}  // namespace sage::server
