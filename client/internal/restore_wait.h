// One caller's wait until tensors are at the server again.
#ifndef SAGE_CLIENT_INTERNAL_RESTORE_WAIT_H_
#define SAGE_CLIENT_INTERNAL_RESTORE_WAIT_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "grpcpp/alarm.h"

namespace sage::internal {

// Over when all tensors are there, when one cannot be, at the deadline or when it is cancelled,
// whichever comes first; what still goes on then goes on without it. Thread-safe.
class RestoreWait {
 public:
  using Done = std::function<void(absl::Status)>;

  // For so many tensors, at least one. `done` is called exactly once, on a thread of gRPC, with
  // DEADLINE_EXCEEDED, CANCELLED or the first failure unless all is well.
  static std::shared_ptr<RestoreWait> Start(std::size_t tensors, absl::Time deadline, Done done);

  RestoreWait(std::size_t tensors, Done done) : done_(std::move(done)), left_(tensors) {}

  // What became of one of the tensors.
  void Tell(absl::Status status);
  void Cancel() { Tell(absl::CancelledError("cancelled while tensors were put again")); }

 private:
  void End();

  std::shared_ptr<RestoreWait> self_;  // reset at the end
  Done done_;
  std::mutex mutex_;
  std::size_t left_;                    // guarded by mutex_
  std::optional<absl::Status> result_;  // guarded by mutex_
  // Every end is its end, early or not, so that there is one.
  grpc::Alarm alarm_;
};

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_RESTORE_WAIT_H_
