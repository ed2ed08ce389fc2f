#include "server/connection_acceptor.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "config/address.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

constexpr int kBacklog = 1024;

absl::Status CannotListen(const std::string& address, const char* why) {
  return absl::UnavailableError(absl::StrCat("listen: cannot listen on ", address, ": ", why));
}

absl::StatusOr<FileDescriptor> ListenUnix(const std::string& address, const std::string& path) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(name.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "listen: got ", address, ", allowed a path of 1 to ", sizeof(name.sun_path) - 1, " bytes"));
  }
  std::memcpy(name.sun_path, path.c_str(), path.size() + 1);
  const auto* const sockname = reinterpret_cast<const sockaddr*>(&name);
  FileDescriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  // A server that was killed leaves its socket behind; nobody answers there.
  const FileDescriptor probe(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (connect(probe.get(), sockname, sizeof(name)) != 0 && errno == ECONNREFUSED) {
    unlink(path.c_str());
  }
  if (bind(fd.get(), sockname, sizeof(name)) != 0 || listen(fd.get(), kBacklog) != 0) {
    return CannotListen(address, std::strerror(errno));
  }
  return fd;
}

absl::StatusOr<FileDescriptor> ListenTcp(const std::string& address, const HostPort& host_port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(host_port.port);
  if (const int error = getaddrinfo(host_port.host.c_str(), port.c_str(), &hints, &found);
      error != 0) {
    return CannotListen(address, gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  FileDescriptor fd(socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0 || listen(fd.get(), kBacklog) != 0) {
    return CannotListen(address, std::strerror(errno));
  }
  return fd;
}

int PortOf(const FileDescriptor& fd) {
  sockaddr_storage name{};
  socklen_t size = sizeof(name);
  getsockname(fd.get(), reinterpret_cast<sockaddr*>(&name), &size);
  return ntohs(name.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(name).sin6_port
                                          : reinterpret_cast<const sockaddr_in&>(name).sin_port);
}

}  // namespace

absl::Status ConnectionAcceptor::Listen(const std::string& address) {
  absl::string_view path = address;
  if (absl::ConsumePrefix(&path, "unix:")) {
    absl::StatusOr<FileDescriptor> fd = ListenUnix(address, std::string(path));
    if (!fd.ok()) return fd.status();
    listeners_.push_back(*std::move(fd));
    unix_paths_.emplace_back(path);
    return absl::OkStatus();
  }
  const absl::StatusOr<HostPort> host_port = ParseHostPort(address);
  if (!host_port.ok()) return host_port.status();
  absl::StatusOr<FileDescriptor> fd = ListenTcp(address, *host_port);
  if (!fd.ok()) return fd.status();
  if (port_ == 0) port_ = PortOf(*fd);
  listeners_.push_back(*std::move(fd));
  return absl::OkStatus();
}

void ConnectionAcceptor::Start(Handle handle, std::uint64_t max_connections) {
  handle_ = std::move(handle);
  max_connections_ = max_connections;
  stop_event_ = FileDescriptor(eventfd(0, EFD_CLOEXEC));
  thread_ = std::thread([this] { Run(); });
}

void ConnectionAcceptor::Stop() {
  if (thread_.joinable()) {
    const std::uint64_t one = 1;
    while (write(stop_event_.get(), &one, sizeof(one)) < 0 && errno == EINTR) {
    }
    thread_.join();
  }
  listeners_.clear();
  for (const std::string& path : unix_paths_) unlink(path.c_str());
  unix_paths_.clear();
}

void ConnectionAcceptor::CutConnections() {
  const std::lock_guard lock(mutex_);
  ForgetClosed();
  // gRPC may close one right now, and its number be given to another file: nothing but a socket
  // would mind, and no new one is served any more.
  for (const auto& [fd, inode] : open_) shutdown(fd, SHUT_RDWR);
}

void ConnectionAcceptor::Run() {
  std::vector<pollfd> polled;
  for (const FileDescriptor& listener : listeners_) polled.push_back({listener.get(), POLLIN, 0});
  polled.push_back({stop_event_.get(), POLLIN, 0});
  while (true) {
    if (poll(polled.data(), polled.size(), -1) < 0) continue;  // interrupted
    if (polled.back().revents != 0) return;
    for (const pollfd& entry : polled) {
      if ((entry.revents & POLLIN) != 0) Accept(entry.fd);
    }
  }
}

void ConnectionAcceptor::Accept(int listener) {
  FileDescriptor fd(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (fd.get() < 0) {
    // Out of descriptors: the connection stays in the backlog, and poll would report it at once
    // again.
    if (errno == EMFILE || errno == ENFILE) {
      spdlog::error("event=accept_failed reason=\"{}\"", std::strerror(errno));
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    return;
  }
  const int on = 1;
  setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on,
             sizeof(on));  // fails, rightly, on a Unix socket
  struct stat status {};
  fstat(fd.get(), &status);
  {
    const std::lock_guard lock(mutex_);
    if (open_.size() >= max_connections_) ForgetClosed();
    if (open_.size() >= max_connections_) {
      ++refused_;
      if (const auto left_out = log_limiter_.Take(); left_out.has_value()) {
        spdlog::warn("event=connection_refused limit={} left_out={}", max_connections_, *left_out);
      }
      return;
    }
    open_[fd.get()] = status.st_ino;
  }
  handle_(listener, fd.release());
}

void ConnectionAcceptor::ForgetClosed() const {
  for (auto entry = open_.begin(); entry != open_.end();) {
    struct stat status {};
    const bool open = fstat(entry->first, &status) == 0 && status.st_ino == entry->second;
    entry = open ? std::next(entry) : open_.erase(entry);
  }
}

std::uint64_t ConnectionAcceptor::connections() const {
  const std::lock_guard lock(mutex_);
  ForgetClosed();
  return open_.size();
}

std::uint64_t ConnectionAcceptor::refused() const {
  const std::lock_guard lock(mutex_);
  return refused_;
}

}  // namespace sage::server
