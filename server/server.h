// The server: composes backend, engine, admission and services, from start to drain.
#ifndef SAGE_SERVER_SERVER_H_
#define SAGE_SERVER_SERVER_H_

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/options.h"

namespace sage::server {

// Serves from Start() until Drain() or destruction. Thread-safe.
class Server {
 public:
  // Checks the options, opens every listening address and starts serving. Each request runs on one
  // backend, the least loaded when it comes; there is at least one, and all are of one kind. Errors
  // name what to change.
  static absl::StatusOr<std::unique_ptr<Server>> Start(
      const ServerOptions& options, std::vector<std::unique_ptr<Backend>> backends);
  ~Server();

  // Health turns NOT_SERVING; after the drain delay new requests are refused with UNAVAILABLE;
  // running ones end in peace until the drain timeout and are cancelled then. Blocks until all of
  // it is done. Returns whether every request had ended by itself. Later calls return at once.
  bool Drain();

  // Blocks until End() is called, or a device is lost for the rest of the process: OK, or the
  // device's error, also where one is lost after End(). From then on health is NOT_SERVING and new
  // requests are refused with UNAVAILABLE; the process is to drain and to leave.
  absl::Status AwaitEnd();
  // The same, or nothing where `duration` passes before.
  std::optional<absl::Status> AwaitEndFor(std::chrono::milliseconds duration);
  void End();

  // Gives memory back that nobody has wanted for a while. To be called now and then, or what mixed
  // requests leave behind grows for hours.
  void GiveBackMemory();

  int port() const;          // of the first TCP address, 0 where there is none
  int metrics_port() const;  // 0 where there is no Prometheus endpoint

  // What requests and resident tensors hold now; all 0 when there are none.
  struct Held {
    std::uint64_t requests = 0;
    std::uint64_t host_bytes_reserved = 0;
    std::uint64_t device_bytes_reserved = 0;
    std::uint64_t slab_bytes_in_use = 0;
    std::uint64_t tensors = 0;

    friend bool operator==(const Held&, const Held&) = default;
  };
  Held held() const;

 private:
  struct Parts;
  explicit Server(std::unique_ptr<Parts> parts);

  std::unique_ptr<Parts> parts_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_SERVER_H_
