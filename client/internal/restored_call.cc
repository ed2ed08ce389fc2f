#include "client/internal/restored_call.h"

#include <mutex>
#include <utility>

namespace sage::internal {
namespace {

// Up to three steps, one after the other: the call, the tensors, the call again. Thread-safe.
class RestoredCall : public std::enable_shared_from_this<RestoredCall> {
 public:
  RestoredCall(CallStarter call, RestoreStarter restore, Client::AttendCallback done)
      : call_(std::move(call)), restore_(std::move(restore)), done_(std::move(done)) {}

  void Start() {
    Started(kCall, call_([self = shared_from_this()](absl::StatusOr<AttendReport> report) {
              if (!absl::IsNotFound(report.status())) {
                self->done_(std::move(report));
              } else {
                self->Restore();
              }
            }));
  }

  void Cancel() {
    AttendCall running;
    {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
      running = running_;
    }
    running.Cancel();
  }

 private:
  enum Step { kCall, kTensors, kCallAgain };

  void Restore() {
    std::shared_ptr<RestoreWait> wait = restore_([self = shared_from_this()](absl::Status status) {
      if (status.ok()) {
        self->Started(kCallAgain, self->call_([self](absl::StatusOr<AttendReport> report) {
          self->done_(std::move(report));
        }));
      } else {
        self->done_(std::move(status));
      }
    });
    Started(kTensors, AttendCall([wait = std::move(wait)] { wait->Cancel(); }));
  }

  // A step may be over, and the next one started, before this is told of it.
  void Started(Step step, AttendCall running) {
    bool cancel = false;
    {
      const std::lock_guard lock(mutex_);
      if (step < step_) return;
      step_ = step;
      running_ = running;
      cancel = cancelled_;
    }
    if (cancel) running.Cancel();
  }

  const CallStarter call_;
  const RestoreStarter restore_;
  const Client::AttendCallback done_;

  std::mutex mutex_;
  // Guarded by mutex_.
  Step step_ = kCall;
  AttendCall running_;  // the step that runs
  bool cancelled_ = false;
};

}  // namespace

AttendCall StartRestoredCall(CallStarter call, RestoreStarter restore,
                             Client::AttendCallback done) {
  const auto restored =
      std::make_shared<RestoredCall>(std::move(call), std::move(restore), std::move(done));
  restored->Start();
  return AttendCall([weak = std::weak_ptr<RestoredCall>(restored)] {
    if (const std::shared_ptr<RestoredCall> running = weak.lock()) running->Cancel();
  });
}

}  // namespace sage::internal
