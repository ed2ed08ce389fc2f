// What calls that stream have in common: their state, changed in steps under one lock, and their
// end. The first error, cancellation or stall decides the final status; the call then waits for
// what is in flight, and finishes exactly once.
#ifndef SAGE_SERVER_STREAMING_CALL_H_
#define SAGE_SERVER_STREAMING_CALL_H_

#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/grpcpp.h"
#include "server/attention_service.h"
#include "server/call_record.h"
#include "server/grpc_status.h"
#include "server/stall_watch.h"

namespace sage::server {

// `Reactor` is one of gRPC's for servers. Created with new; deletes itself when gRPC is done with
// it.
template <typename Reactor>
class StreamingCall : public Reactor, public Stallable {
 public:
  void OnCancel() final {
    Step([this] { Fail(record_.ClientLeft()); });
  }

  void OnDone() final {
    core_.stalls.Remove(this);
    // The last step was taken under the lock, on another thread.
    { const std::lock_guard lock(mutex_); }
    delete this;
  }

 protected:
  using Clock = std::chrono::steady_clock;

  // `rpc` is the method's name, a literal. The core and the context outlive the call.
  StreamingCall(AttentionCore& core, Caller caller, grpc::CallbackServerContext& context,
                const char* rpc)
      : core_(core), context_(context), caller_(std::move(caller)), record_(rpc, context) {}

  // From now on the call is asked whether it stalls, maybe at once.
  void Watch() { core_.stalls.Add(this); }

  // Runs `change` on the state, then starts whatever can go on. Finish() may free this object, so
  // it is the last thing done.
  template <typename Change>
  void Step(Change change) {
    std::unique_lock lock(mutex_);
    if (finished_) return;
    change();
    if (!decided()) GoOn();
    if (!decided() || Busy()) return;
    finished_ = true;
    const absl::Status status = *status_;
    record_.Close(status, job(), core_.metrics);
    // Memory is back, and the call counted, before the client sees the end.
    Release();
    caller_.stream.Release();
    lock.unlock();
    this->Finish(ToGrpcStatus(status));
  }

  // All of the following: with the lock held, as within a step.

  // The first decision stands.
  void Decide(absl::Status status) {
    if (decided()) return;
    status_ = std::move(status);
    if (!status_->ok()) Failed();
  }
  void Fail(absl::Status status) {
    if (!status.ok()) Decide(std::move(status));
  }
  bool decided() const { return status_.has_value(); }

  // Whether a peer that was waited for since `since` has stalled; the call is then to end, because
  // the client `what`.
  bool Stall(Clock::time_point since, Clock::time_point now, const char* what) {
    if (now - since <= core_.stall_timeout) return false;
    if (decided()) return true;
    record_.Stalled();
    Fail(absl::DeadlineExceededError(
        absl::StrCat("stalled: the client ", what, " for ", core_.stall_timeout.count(), " ms")));
    return true;
  }

  // Starts whatever can go on; nothing is decided yet.
  virtual void GoOn() = 0;
  // Whether something in flight has to end before the call can.
  virtual bool Busy() const = 0;
  // The call has failed: what need not end by itself is to be ended.
  virtual void Failed() {}
  // Gives back what the call holds.
  virtual void Release() = 0;
  virtual const AttendJob* job() const { return nullptr; }

  AttentionCore& core_;
  grpc::CallbackServerContext& context_;
  Caller caller_;
  CallRecord record_;  // guarded by the lock

 private:
  std::mutex mutex_;
  // Guarded by mutex_.
  std::optional<absl::Status> status_;  // the final status, once decided
  bool finished_ = false;               // Finish() was called
};

}  // namespace sage::server

#endif  // SAGE_SERVER_STREAMING_CALL_H_
