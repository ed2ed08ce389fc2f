// What the load driver needs of the world: a clock, and a server to send requests to.
#ifndef SAGE_CLIENT_CLI_LOAD_LOAD_ENVIRONMENT_H_
#define SAGE_CLIENT_CLI_LOAD_LOAD_ENVIRONMENT_H_

#include <chrono>
#include <functional>

#include "absl/status/statusor.h"
#include "client/attend_request.h"

namespace sage::cli {

struct LoadAnswer {
  absl::StatusOr<AttendReport> report;
  std::chrono::nanoseconds time{0};  // when it was there, by the environment's clock
};

// Single-threaded: everything is called, and called back, on the driver's thread.
class LoadEnvironment {
 public:
  using Done = std::function<void(const LoadAnswer&)>;

  virtual ~LoadEnvironment() = default;

  // Monotonic, from any begin.
  virtual std::chrono::nanoseconds Now() const = 0;
  // Starts the next request of the mix. `done` is called once, from a later Wait().
  virtual void Send(Done done) = 0;
  // Calls back for the answers that are there; where none is, waits for one until `until`.
  virtual void Wait(std::chrono::nanoseconds until) = 0;
  // Whether the user wants the run to end early.
  virtual bool Stopped() const { return false; }
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_LOAD_ENVIRONMENT_H_
