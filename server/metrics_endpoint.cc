#include "server/metrics_endpoint.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace sage::server {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kRequestPatience{1};
constexpr std::size_t kMaxRequestBytes = 8 << 10;
constexpr std::uint64_t kMaxConnections = 16;

// Whether the socket can be read or written, as `events` says, before `deadline`.
bool Await(int fd, short events, Clock::time_point deadline) {
  pollfd entry{fd, events, 0};
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  return left.count() > 0 && poll(&entry, 1, static_cast<int>(left.count())) > 0;
}

// The request line and headers; what has come of them where the client says no more.
std::string ReadRequest(int fd, Clock::time_point deadline) {
  std::string request;
  std::array<char, 1024> piece;
  while (!absl::StrContains(request, "\r\n\r\n") && request.size() < kMaxRequestBytes &&
         Await(fd, POLLIN, deadline)) {
    const ssize_t size = recv(fd, piece.data(), piece.size(), 0);
    if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) break;
    if (size > 0) request.append(piece.data(), static_cast<std::size_t>(size));
  }
  return request;
}

void Write(int fd, absl::string_view text, Clock::time_point deadline) {
  while (!text.empty() && Await(fd, POLLOUT, deadline)) {
    const ssize_t size = send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (size < 0 && errno != EAGAIN && errno != EINTR) return;
    if (size > 0) text.remove_prefix(static_cast<std::size_t>(size));
  }
}

std::string Response(absl::string_view status, absl::string_view body) {
  return absl::StrCat("HTTP/1.1 ", status,
                      "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                      "Connection: close\r\nContent-Length: ",
                      body.size(), "\r\n\r\n", body);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Open(
    const std::string& address, std::function<std::string()> text) {
  std::unique_ptr<MetricsEndpoint> endpoint(new MetricsEndpoint(std::move(text)));
  if (absl::Status status = endpoint->acceptor_.Listen(address); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat("metrics-", status.message()));
  }
  endpoint->acceptor_.Start([raw = endpoint.get()](int /*listener*/, int fd) { raw->Answer(fd); },
                            kMaxConnections);
  return endpoint;
}

void MetricsEndpoint::Answer(int fd) const {
  const FileDescriptor owned(fd);
  const Clock::time_point deadline = Clock::now() + kRequestPatience;
  const std::string request = ReadRequest(fd, deadline);
  if (absl::StartsWith(request, "GET /metrics ") || absl::StartsWith(request, "GET /metrics?")) {
    Write(fd, Response("200 OK", text_()), deadline);
  } else if (absl::StartsWith(request, "GET ")) {
    Write(fd, Response("404 Not Found", "see /metrics\n"), deadline);
  } else {
    Write(fd, Response("405 Method Not Allowed", "GET /metrics\n"), deadline);
  }
}

}  // namespace sage::server
