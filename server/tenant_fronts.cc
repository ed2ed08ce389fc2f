#include "server/tenant_fronts.h"

#include <sys/socket.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

constexpr char kDefaultTenant[] = "default";

}  // namespace

std::string TenantOf(int socket) {
  int domain = 0;
  socklen_t size = sizeof(domain);
  if (getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 || domain != AF_UNIX) {
    return kDefaultTenant;
  }
  ucred peer{};
  size = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return kDefaultTenant;
  return absl::StrCat("uid:", peer.uid);
}

absl::Status TenantFronts::Open() {
  const std::lock_guard lock(mutex_);
  return FrontOf(kDefaultTenant).status();
}

absl::StatusOr<GrpcFront*> TenantFronts::FrontOf(const std::string& tenant) {
  if (const auto found = fronts_.find(tenant); found != fronts_.end()) return found->second.get();
  if (fronts_.size() == kMaxTenants) {
    return absl::ResourceExhaustedError(absl::StrCat("the limit is ", kMaxTenants, " tenants"));
  }
  absl::StatusOr<std::unique_ptr<GrpcFront>> front = start_(tenant);
  if (!front.ok()) return front.status();
  (*front)->SetHealthy(healthy_);
  return (fronts_[tenant] = *std::move(front)).get();
}

void TenantFronts::HandleConnection(int listener_fd, int fd) {
  const std::lock_guard lock(mutex_);
  const std::string tenant = TenantOf(fd);
  const absl::StatusOr<GrpcFront*> front = FrontOf(tenant);
  if (!front.ok()) {
    spdlog::warn("event=connection_refused tenant={} reason=\"{}\"", tenant,
                 std::string(front.status().message()));
    close(fd);
    return;
  }
  (*front)->HandleConnection(listener_fd, fd);
}

void TenantFronts::SetHealthy(bool healthy) {
  const std::lock_guard lock(mutex_);
  healthy_ = healthy;
  for (const auto& [tenant, front] : fronts_) front->SetHealthy(healthy);
}

void TenantFronts::Shutdown(std::chrono::system_clock::time_point deadline) {
  const std::lock_guard lock(mutex_);
  for (const auto& [tenant, front] : fronts_) front->Shutdown(deadline);
}

}  // namespace sage::server
