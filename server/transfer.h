// Copies between a device and the host for tensors that come and go outside of any request's units.
#ifndef SAGE_SERVER_TRANSFER_H_
#define SAGE_SERVER_TRANSFER_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace sage::server {

// A stream of its own, so that copies run beside the engine's work, in the order asked for.
// Thread-safe. Destruction waits for what runs.
class Transfer {
 public:
  // Called once, on a thread of the backend, when the copy is over; must not block, nor call into
  // the backend. Not called where the copy could not be started.
  using Done = std::function<void(absl::Status)>;

  // `backend` outlives the transfer.
  static absl::StatusOr<std::unique_ptr<Transfer>> Create(Backend& backend);

  // Memory stays valid until `done`.
  absl::Status ToDevice(std::byte* device, const std::byte* host, std::size_t bytes, Done done);
  absl::Status ToHost(std::byte* host, const std::byte* device, std::size_t bytes, Done done);
  // Fills device memory with zeros.
  absl::Status Zero(std::byte* device, std::size_t bytes, Done done);

 private:
  Transfer(Memory zeros, std::unique_ptr<Stream> stream)
      : zeros_(std::move(zeros)), stream_(std::move(stream)) {}

  absl::Status Finish(absl::Status copies, Done done);

  const Memory zeros_;  // host memory, copied from
  std::mutex mutex_;    // keeps copies and their callbacks together
  const std::unique_ptr<Stream> stream_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TRANSFER_H_
