#include "client/internal/striped_call.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "proto/wire/random_id.h"

namespace sage::internal {
namespace {

// What the callbacks of all stripes share. Thread-safe.
class StripedCall {
 public:
  StripedCall(const AttendRequest& request, const std::vector<Stripe>& stripes,
              Client::AttendCallback done)
      : request_(request),
        done_(std::move(done)),
        running_(stripes.size()),
        calls_(stripes.size()),
        reports_(stripes.size()),
        units_(stripes.size()) {
    for (const Stripe& stripe : stripes) blocks_.push_back(ExistingBlocks(stripe.request.problem));
  }

  // The hooks of stripe `index`, in place of those of the whole.
  static void SetHooks(const std::shared_ptr<StripedCall>& call, std::size_t index,
                       AttendRequest* stripe) {
    if (stripe->on_unit_done) {
      stripe->on_unit_done = [call, index](std::int64_t done, std::int64_t total) {
        call->UnitDone(index, done, total);
      };
    }
    if (stripe->on_range_done) {
      stripe->on_range_done = [call](const void* data, std::size_t size) {
        const std::lock_guard lock(call->hook_mutex_);
        call->request_.on_range_done(data, size);
      };
    }
  }

  // Whether another stripe may start; after a failure none does.
  bool MayStart() {
    const std::lock_guard lock(mutex_);
    return failure_.ok();
  }

  void Started(std::size_t index, AttendCall stripe) {
    bool failed = false;
    {
      const std::lock_guard lock(mutex_);
      calls_[index] = stripe;
      failed = !failure_.ok();
    }
    if (failed) stripe.Cancel();
  }

  void Ended(std::size_t index, absl::StatusOr<AttendReport> report) {
    std::vector<AttendCall> to_cancel;
    bool last = false;
    {
      const std::lock_guard lock(mutex_);
      if (report.ok()) {
        reports_[index] = *std::move(report);
      } else if (failure_.ok()) {
        failure_ = report.status();
        to_cancel = calls_;
      }
      last = --running_ == 0;
    }
    for (const AttendCall& call : to_cancel) call.Cancel();
    if (last) done_(Result());
  }

  void Cancel() {
    std::vector<AttendCall> calls;
    {
      const std::lock_guard lock(mutex_);
      calls = calls_;
    }
    for (const AttendCall& call : calls) call.Cancel();
  }

 private:
  struct Units {
    std::int64_t done = 0;
    std::int64_t total = 0;  // 0 until the first is done
  };

  void UnitDone(std::size_t index, std::int64_t done, std::int64_t total) {
    const std::lock_guard lock(hook_mutex_);
    units_[index] = {done, total};
    Units sum;
    for (const Units& units : units_) {
      if (units.total == 0) return;  // how many there are is not known yet
      sum.done += units.done;
      sum.total += units.total;
    }
    request_.on_unit_done(sum.done, sum.total);
  }

  // Nothing runs any more.
  absl::StatusOr<AttendReport> Result() const {
    if (!failure_.ok()) return failure_;
    AttendReport whole;
    whole.request_id = reports_.front().request_id;
    whole.server_id = reports_.front().server_id;
    double operations = 0;
    double blocks = 0;
    double listed_blocks = 0;
    for (std::size_t i = 0; i < reports_.size(); ++i) {
      const AttendReport& stripe = reports_[i];
      // Side by side in the transport, one after the other on the device.
      const StageSeconds& s = stripe.stages;
      whole.stages.recv = std::max(whole.stages.recv, s.recv);
      whole.stages.send = std::max(whole.stages.send, s.send);
      whole.stages.total = std::max(whole.stages.total, s.total);
      whole.stages.queue += s.queue;
      whole.stages.h2d += s.h2d;
      whole.stages.prepare += s.prepare;
      whole.stages.kernel += s.kernel;
      whole.stages.d2h += s.d2h;
      operations += stripe.effective_tops * s.kernel;
      blocks += blocks_[i];
      listed_blocks += stripe.block_density * blocks_[i];
      whole.bytes_in += stripe.bytes_in;
      whole.bytes_out += stripe.bytes_out;
      whole.wall_seconds = std::max(whole.wall_seconds, stripe.wall_seconds);
    }
    if (whole.stages.kernel > 0) whole.effective_tops = operations / whole.stages.kernel;
    if (blocks > 0) whole.block_density = listed_blocks / blocks;
    return whole;
  }

  const AttendRequest request_;
  const Client::AttendCallback done_;
  std::vector<double> blocks_;  // that exist, by stripe; constant

  std::mutex mutex_;
  // Guarded by mutex_.
  std::size_t running_;
  std::vector<AttendCall> calls_;
  std::vector<AttendReport> reports_;
  absl::Status failure_;

  std::mutex hook_mutex_;     // held while a hook of the request runs
  std::vector<Units> units_;  // guarded by hook_mutex_
};

}  // namespace

AttendCall StartStripedCall(const AttendRequest& request, std::vector<Stripe> stripes,
                            const StripeStarter& start, Client::AttendCallback done) {
  const std::string request_id = request.request_id.empty() ? RandomId() : request.request_id;
  const auto call = std::make_shared<StripedCall>(request, stripes, std::move(done));
  for (std::size_t i = 0; i < stripes.size(); ++i) {
    if (!call->MayStart()) {
      call->Ended(i, absl::CancelledError("another stripe had failed"));
      continue;
    }
    Stripe& stripe = stripes[i];
    stripe.request.request_id = request_id;
    StripedCall::SetHooks(call, i, &stripe.request);
    call->Started(i, start(std::move(stripe), [call, i](absl::StatusOr<AttendReport> report) {
                    call->Ended(i, std::move(report));
                  }));
  }
  return AttendCall([weak = std::weak_ptr<StripedCall>(call)] {
    if (const std::shared_ptr<StripedCall> running = weak.lock()) running->Cancel();
  });
}

}  // namespace sage::internal
