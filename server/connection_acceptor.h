// Accepts connections for gRPC servers, no more than a limit at a time.
//
// gRPC has no limit of its own in the versions that we build with, so listening is done here and
// accepted sockets are handed over. A connection past the limit is closed at once: its client sees
// UNAVAILABLE and may try another server.
#ifndef SAGE_SERVER_CONNECTION_ACCEPTOR_H_
#define SAGE_SERVER_CONNECTION_ACCEPTOR_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/file_descriptor.h"
#include "server/log_limiter.h"

namespace sage::server {

// Thread-safe after Start().
class ConnectionAcceptor {
 public:
  ~ConnectionAcceptor() { Stop(); }

  // Binds HOST:PORT or unix:PATH; before Start(). INVALID_ARGUMENT for an address that cannot be
  // read, UNAVAILABLE for one that cannot be bound.
  absl::Status Listen(const std::string& address);

  // Calls `handle`, on one thread, with each accepted connection, which it takes over, until
  // Stop().
  using Handle = std::function<void(int listener_fd, int fd)>;
  void Start(Handle handle, std::uint64_t max_connections);
  void Stop();
  // After Stop(): cuts all connections that are still open. What was written to them still leaves;
  // clients see the calls that have no answer yet end with UNAVAILABLE.
  void CutConnections();

  int port() const { return port_; }  // of the first TCP address, 0 where there is none
  std::uint64_t connections() const;  // now
  std::uint64_t refused() const;      // since the start

 private:
  void Run();
  void Accept(int listener);
  void ForgetClosed() const;  // with mutex_ held

  std::vector<FileDescriptor> listeners_;
  std::vector<std::string> unix_paths_;
  int port_ = 0;
  FileDescriptor stop_event_;
  Handle handle_;
  std::uint64_t max_connections_ = 0;
  std::thread thread_;

  LogLimiter log_limiter_;  // of refused connections
  mutable std::mutex mutex_;
  // Guarded by mutex_. Sockets handed over, by descriptor; gRPC closes them without telling, so
  // each is known by its inode.
  mutable std::unordered_map<int, ino_t> open_;
  std::uint64_t refused_ = 0;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_CONNECTION_ACCEPTOR_H_
