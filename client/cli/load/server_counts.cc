#include "client/cli/load/server_counts.h"

namespace sage::cli {

ServerCounts CountsBetween(const std::string& target, const absl::StatusOr<v1::Statistics>& before,
                           const absl::StatusOr<v1::Statistics>& after) {
  ServerCounts counts;
  counts.target = target;
  if (!before.ok() || !after.ok()) {
    counts.status = before.ok() ? after.status() : before.status();
  } else if (after->uptime_ms() < before->uptime_ms()) {
    counts.status = absl::UnavailableError("the server was started anew during the step");
  } else {
    constexpr double kMillisecondsPerSecond = 1e3;
    counts.seconds =
        static_cast<double>(after->uptime_ms() - before->uptime_ms()) / kMillisecondsPerSecond;
    counts.ok = static_cast<std::int64_t>(after->requests_ok() - before->requests_ok());
    counts.failed = static_cast<std::int64_t>(after->requests_failed() - before->requests_failed());
    counts.bytes_in = after->payload_bytes_in() - before->payload_bytes_in();
    counts.bytes_out = after->payload_bytes_out() - before->payload_bytes_out();
  }
  return counts;
}

}  // namespace sage::cli
