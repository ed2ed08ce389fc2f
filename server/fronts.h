// The gRPC servers of all connections: one for TCP, and one for each user who comes over a Unix
// socket.
#ifndef SAGE_SERVER_FRONTS_H_
#define SAGE_SERVER_FRONTS_H_

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "server/grpc_front.h"
#include "server/log_limiter.h"

namespace sage::server {

// Thread-safe.
class Fronts {
 public:
  static constexpr std::size_t kMaxUsers = 64;

  // `start` makes the front of a user of this machine, or that of TCP.
  using StartFront =
      std::function<absl::StatusOr<std::unique_ptr<GrpcFront>>(std::optional<uid_t> user)>;
  explicit Fronts(StartFront start) : start_(std::move(start)) {}

  // Starts the front of TCP, so that nothing is left that can fail for it.
  absl::Status Open();
  // Takes `fd` over; closes it where its user is one too many or its front does not start.
  void HandleConnection(int listener_fd, int fd);

  // Of all fronts, those to come included.
  void SetHealthy(bool healthy);
  // No connection comes any more.
  void Shutdown(std::chrono::system_clock::time_point deadline);

 private:
  absl::StatusOr<GrpcFront*> FrontOf(std::optional<uid_t> user);  // with mutex_ held

  const StartFront start_;
  LogLimiter log_limiter_;  // of refused connections
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::optional<uid_t>, std::unique_ptr<GrpcFront>> fronts_;
  bool healthy_ = true;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_FRONTS_H_
