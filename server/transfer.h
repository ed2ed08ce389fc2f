// Copies between a device and the host for tensors that come and go outside of any request's units.
#ifndef SAGE_SERVER_TRANSFER_H_
#define SAGE_SERVER_TRANSFER_H_

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace sage::server {

// A stream of its own, so that copies run beside the engine's work, in the order asked for.
// Thread-safe. Destruction waits for what runs.
class Transfer {
 public:
  // Called once, on the transfer's thread, when the copy is over; must not block for long. What it
  // lets go of may be freed there, which the threads of a backend would not allow. Not called where
  // the copy could not be started.
  using Done = std::function<void(absl::Status)>;

  // `backend` outlives the transfer.
  static absl::StatusOr<std::unique_ptr<Transfer>> Create(Backend& backend);
  ~Transfer();

  // Memory stays valid until `done`.
  absl::Status ToDevice(std::byte* device, const std::byte* host, std::size_t bytes, Done done);
  absl::Status ToHost(std::byte* host, const std::byte* device, std::size_t bytes, Done done);
  // Fills device memory with zeros.
  absl::Status Zero(std::byte* device, std::size_t bytes, Done done);

 private:
  Transfer(Memory zeros, std::unique_ptr<Stream> stream)
      : zeros_(std::move(zeros)), stream_(std::move(stream)), thread_([this] { Run(); }) {}

  absl::Status Finish(absl::Status copies, Done done);
  // Calls what is over, in order, until an empty one comes.
  void Run();
  void Enqueue(std::function<void()> over);

  const Memory zeros_;  // host memory, copied from
  std::mutex mutex_;    // keeps copies and their callbacks together
  std::unique_ptr<Stream> stream_;

  std::mutex over_mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> over_;  // guarded by over_mutex_
  std::thread thread_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_TRANSFER_H_
