// Which tenant a connection belongs to, and the gRPC servers of all tenants.
#ifndef SAGE_SERVER_TENANT_FRONTS_H_
#define SAGE_SERVER_TENANT_FRONTS_H_

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "server/grpc_front.h"

namespace sage::server {

// Without credentials: whoever comes over TCP is `default`; over a Unix socket, `uid:N`, the peer's
// user as the kernel tells it.
std::string TenantOf(int socket);

// A front for each tenant that has connected, up to a limit. Thread-safe.
class TenantFronts {
 public:
  static constexpr std::size_t kMaxTenants = 64;

  // `start` makes the front of a tenant.
  using StartFront = std::function<absl::StatusOr<std::unique_ptr<GrpcFront>>(std::string tenant)>;
  explicit TenantFronts(StartFront start) : start_(std::move(start)) {}

  // Starts the front of `default`, so that nothing is left that can fail for it.
  absl::Status Open();
  // Takes `fd` over; closes it where its tenant is one too many or its front does not start.
  void HandleConnection(int listener_fd, int fd);

  // Of all fronts, those to come included.
  void SetHealthy(bool healthy);
  // No connection comes any more.
  void Shutdown(std::chrono::system_clock::time_point deadline);

 private:
  absl::StatusOr<GrpcFront*> FrontOf(const std::string& tenant);  // with mutex_ held

  const StartFront start_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<std::string, std::unique_ptr<GrpcFront>> fronts_;
  bool healthy_ = true;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TENANT_FRONTS_H_
