#include "server/options.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "config/address.h"

namespace sage::server {
namespace {

absl::Status Refuse(const char* flag, const std::string& got, const std::string& allowed) {
  return absl::InvalidArgumentError(absl::StrCat(flag, ": got ", got, ", allowed ", allowed));
}

}  // namespace

absl::Status CheckOptions(const ServerOptions& options) {
  if (options.listen.empty()) return Refuse("listen", "nothing", "at least one address");
  for (const std::string& address : options.listen) {
    if (absl::Status status = CheckAddress(address); !status.ok()) return status;
    if (!IsLocal(address) && !options.allow_insecure_remote) {
      return Refuse(
          "listen", address,
          "addresses of this machine; to serve others without encryption or credentials, say "
          "so with --allow-insecure-remote");
    }
  }
  if (options.backend != "auto" && options.backend != "cpu" && options.backend != "cuda") {
    return Refuse("backend", options.backend, "auto, cpu, cuda");
  }
  struct Range {
    const char* flag;
    std::int64_t got, least, most;
  };
  constexpr std::int64_t kManyBytes = std::int64_t{1} << 50;
  const std::array<Range, 13> ranges = {{
      {"threads", options.threads, 0, 4096},
      {"streams", options.streams, 0, 64},
      {"unit", static_cast<std::int64_t>(options.unit_bytes), 1, kManyBytes},
      {"window", static_cast<std::int64_t>(options.window_bytes), 1, kManyBytes},
      {"tensor-lease-ms", options.tensor_lease.count(), 1, options.tensor_max_lease.count()},
      {"tensor-max-lease-ms", options.tensor_max_lease.count(), 1, 31536000000},
      {"max-requests", static_cast<std::int64_t>(options.max_requests), 1, 1 << 20},
      {"max-connections", static_cast<std::int64_t>(options.max_connections), 1, 1 << 20},
      {"max-queue-ms", options.max_queue.count(), 1, 86400000},
      {"default-deadline-ms", options.default_deadline.count(), 1, 31536000000},
      {"stall-timeout-ms", options.stall_timeout.count(), 1, 86400000},
      {"drain-delay-ms", options.drain_delay.count(), 0, 86400000},
      {"drain-timeout-ms", options.drain_timeout.count(), 0, 86400000},
  }};
  for (const Range& range : ranges) {
    if (range.got < range.least || range.got > range.most) {
      return Refuse(range.flag, absl::StrCat(range.got),
                    absl::StrCat(range.least, " to ", range.most));
    }
  }
  return absl::OkStatus();
}

}  // namespace sage::server
