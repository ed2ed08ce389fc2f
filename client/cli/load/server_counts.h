// What a server itself counted during a step.
#ifndef SAGE_CLIENT_CLI_LOAD_SERVER_COUNTS_H_
#define SAGE_CLIENT_CLI_LOAD_SERVER_COUNTS_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "sage/v1/server.pb.h"

namespace sage::cli {

// Differences of two readings of GetStatistics. Includes what other clients did meanwhile.
struct ServerCounts {
  std::string target;
  absl::Status status;  // why there are none
  double seconds = 0;   // between the readings, by the server's clock
  std::int64_t ok = 0;
  std::int64_t failed = 0;
  std::uint64_t bytes_in = 0;
  std::uint64_t bytes_out = 0;

  double ok_per_second() const { return seconds > 0 ? static_cast<double>(ok) / seconds : 0; }
};

// UNAVAILABLE where a reading failed or the server was started anew in between.
ServerCounts CountsBetween(const std::string& target, const absl::StatusOr<v1::Statistics>& before,
                           const absl::StatusOr<v1::Statistics>& after);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_SERVER_COUNTS_H_
