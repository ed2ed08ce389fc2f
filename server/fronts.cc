#include "server/fronts.h"

#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

// The peer's user as the kernel tells it, on a Unix socket; nothing for TCP.
absl::StatusOr<std::optional<uid_t>> PeerOf(int socket) {
  int domain = 0;
  socklen_t size = sizeof(domain);
  if (getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0) {
    return absl::InternalError("the kind of socket is not known");
  }
  if (domain != AF_UNIX) return std::optional<uid_t>();
  ucred peer{};
  size = sizeof(peer);
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
    return absl::InternalError("the peer's user is not known");
  }
  return std::optional<uid_t>(peer.uid);
}

}  // namespace

absl::Status Fronts::Open() {
  const std::lock_guard lock(mutex_);
  return FrontOf(std::nullopt).status();
}

absl::StatusOr<GrpcFront*> Fronts::FrontOf(std::optional<uid_t> user) {
  if (const auto found = fronts_.find(user); found != fronts_.end()) return found->second.get();
  if (fronts_.size() > kMaxUsers) {
    return absl::ResourceExhaustedError(absl::StrCat("the limit is ", kMaxUsers, " users"));
  }
  absl::StatusOr<std::unique_ptr<GrpcFront>> front = start_(user);
  if (!front.ok()) return front.status();
  (*front)->SetHealthy(healthy_);
  return (fronts_[user] = *std::move(front)).get();
}

void Fronts::HandleConnection(int listener_fd, int fd) {
  const std::lock_guard lock(mutex_);
  const absl::StatusOr<std::optional<uid_t>> peer = PeerOf(fd);
  const absl::StatusOr<GrpcFront*> front =
      peer.ok() ? FrontOf(*peer) : absl::StatusOr<GrpcFront*>(peer.status());
  if (!front.ok()) {
    if (const auto left_out = log_limiter_.Take(); left_out.has_value()) {
      spdlog::warn("event=connection_refused left_out={} reason=\"{}\"", *left_out,
                   std::string(front.status().message()));
    }
    close(fd);
    return;
  }
  (*front)->HandleConnection(listener_fd, fd);
}

void Fronts::SetHealthy(bool healthy) {
  const std::lock_guard lock(mutex_);
  healthy_ = healthy;
  for (const auto& [user, front] : fronts_) front->SetHealthy(healthy);
}

void Fronts::Shutdown(std::chrono::system_clock::time_point deadline) {
  const std::lock_guard lock(mutex_);
  for (const auto& [user, front] : fronts_) front->Shutdown(deadline);
}

}  // namespace sage::server
