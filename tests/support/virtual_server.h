// A server in virtual time, for load tests whose outcome is known exactly.
#ifndef SAGE_TESTS_SUPPORT_VIRTUAL_SERVER_H_
#define SAGE_TESTS_SUPPORT_VIRTUAL_SERVER_H_

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "client/cli/load/load_environment.h"

namespace sage::testing {

// Time passes only in Wait(), at once. A request that is sent at t is answered at `answer_at(t)`,
// however many others there are; a test that wants a queue keeps it there.
class VirtualServer : public cli::LoadEnvironment {
 public:
  using Nanoseconds = std::chrono::nanoseconds;

  explicit VirtualServer(std::function<Nanoseconds(Nanoseconds)> answer_at)
      : answer_at_(std::move(answer_at)) {}

  // Makes the answer to the i-th request, from 0 on; a success by default.
  std::function<absl::StatusOr<AttendReport>(std::int64_t)> report;
  // When the user interrupts the run.
  Nanoseconds stop_at = Nanoseconds::max();
  // How late each wait for a moment ends.
  Nanoseconds oversleep{0};

  std::int64_t sent() const { return sent_; }
  int most_in_flight() const { return most_in_flight_; }

  Nanoseconds Now() const override { return now_; }
  bool Stopped() const override { return now_ >= stop_at; }

  void Send(Done done) override {
    calls_.push({answer_at_(now_), sent_++, std::move(done)});
    most_in_flight_ = std::max(most_in_flight_, static_cast<int>(calls_.size()));
  }

  void Wait(Nanoseconds until) override {
    if (calls_.empty() || calls_.top().time > until) {
      now_ = std::max(now_, until + oversleep);
      return;
    }
    const Call call = calls_.top();
    calls_.pop();
    now_ = std::max(now_, call.time);
    call.done({report ? report(call.index) : AttendReport{}, call.time});
  }

 private:
  struct Call {
    Nanoseconds time;
    std::int64_t index;
    Done done;

    bool operator<(const Call& other) const { return time > other.time; }  // earliest on top
  };

  const std::function<Nanoseconds(Nanoseconds)> answer_at_;
  Nanoseconds now_{0};
  std::int64_t sent_ = 0;
  int most_in_flight_ = 0;
  std::priority_queue<Call> calls_;
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_VIRTUAL_SERVER_H_
