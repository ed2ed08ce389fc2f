#include "client/cli/load/load_step.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <utility>

namespace sage::cli {
namespace {

constexpr Nanoseconds kShowInterval = std::chrono::milliseconds(250);
constexpr Nanoseconds kInterval = std::chrono::seconds(1);

class StepRunner {
 public:
  StepRunner(const LoadStep& step, LoadEnvironment* environment,
             const std::function<void(const LiveFigures&)>& show)
      : step_(step),
        environment_(*environment),
        show_(show),
        begin_(environment->Now()),
        measured_begin_(begin_ + step.ramp),
        end_(step.duration == Nanoseconds::max() ? Nanoseconds::max()
                                                 : measured_begin_ + step.duration),
        arrivals_(step.arrivals, {step.load_before, step.rate, step.ramp}, step.seed),
        interval_begin_(begin_),
        next_show_(begin_ + kShowInterval) {
    result_.step = step;
    last_answer_ = measured_begin_;
    if (!step_.concurrency) next_due_ = begin_ + arrivals_.Next();
  }

  StepResult Run() {
    for (;;) {
      const Nanoseconds now = environment_.Now();
      Tick(now);
      if (environment_.Stopped() && !result_.stopped) {
        over_ = result_.stopped = true;
        waiting_.clear();
      }
      if (now >= end_) over_ = true;
      if (step_.concurrency) {
        SendClosed(now);
      } else {
        SendOpen(now);
      }
      if (over_ && in_flight_ == 0 && waiting_.empty()) break;
      environment_.Wait(NextEvent(now));
    }
    CloseInterval(environment_.Now());
    result_.measured = last_answer_ - measured_begin_;
    return std::move(result_);
  }

 private:
  int Allowed(Nanoseconds now) const {
    if (now >= measured_begin_) return *step_.concurrency;
    const double grown = std::chrono::duration<double>(now - begin_) / step_.ramp;
    const double allowed = step_.load_before + (*step_.concurrency - step_.load_before) * grown;
    return std::max(1, static_cast<int>(std::floor(allowed)));
  }

  void SendClosed(Nanoseconds now) {
    const int allowed = Allowed(now);
    while (!over_ && in_flight_ < allowed) {
      const Nanoseconds due = environment_.Now();
      CountDue(due);
      Send(due);
    }
  }

  void SendOpen(Nanoseconds now) {
    // A request that is due is sent, however late it is: it waits at the client at most.
    while (!over_ && next_due_ <= now) {
      waiting_.push_back(next_due_);
      CountDue(next_due_);
      next_due_ = begin_ + arrivals_.Next();
      if (next_due_ >= end_) over_ = true;
    }
    while (!waiting_.empty() && in_flight_ < step_.max_in_flight) {
      const Nanoseconds due = waiting_.front();
      waiting_.pop_front();
      Send(due);
    }
  }

  void CountDue(Nanoseconds due) {
    if (due >= measured_begin_ && ++measured_due_ >= step_.count) over_ = true;
  }

  void Send(Nanoseconds due) {
    const Nanoseconds sent = environment_.Now();
    if (due >= measured_begin_) {
      result_.max_send_delay = std::max(result_.max_send_delay, sent - due);
    }
    ++in_flight_;
    environment_.Send([this, due, sent](const LoadAnswer& answer) { Take(due, sent, answer); });
  }

  void Take(Nanoseconds due, Nanoseconds sent, const LoadAnswer& answer) {
    --in_flight_;
    const bool measured = due >= measured_begin_;
    if (measured) last_answer_ = std::max(last_answer_, answer.time);
    if (!answer.report.ok()) {
      ++result_.all_failed;
      ++interval_.failed;
      if (measured) {
        ++result_.failed;
        LoadErrors& errors =
            result_.errors[absl::StatusCodeToString(answer.report.status().code())];
        if (errors.count++ == 0) errors.example = std::string(answer.report.status().message());
      }
      return;
    }
    const AttendReport& report = *answer.report;
    ++result_.all_ok;
    ++interval_.ok;
    result_.all_bytes_in += report.bytes_in;
    result_.all_bytes_out += report.bytes_out;
    interval_latency_.Add(answer.time - due);
    if (!measured) return;
    ++result_.ok;
    result_.latency.Add(answer.time - due);
    result_.service.Add(answer.time - sent);
    result_.server.Add(std::chrono::duration_cast<Nanoseconds>(
        std::chrono::duration<double>(report.stages.total)));
    result_.kernel_seconds += report.stages.kernel;
  }

  // The earliest moment at which there is something to do without an answer.
  Nanoseconds NextEvent(Nanoseconds now) const {
    Nanoseconds next = std::min(interval_begin_ + kInterval, next_show_);
    if (over_) return next;
    if (!step_.concurrency) return std::min({next, next_due_, end_});
    // While a closed loop ramps up, another request may be allowed at any time.
    constexpr Nanoseconds kRampStep = std::chrono::milliseconds(1);
    if (now < measured_begin_) next = std::min(next, now + kRampStep);
    return std::min(next, end_);
  }

  void Tick(Nanoseconds now) {
    if (now >= next_show_) {
      next_show_ = now + kShowInterval;
      if (show_) Show(now);
    }
    if (now - interval_begin_ >= kInterval) CloseInterval(now);
  }

  void CloseInterval(Nanoseconds now) {
    interval_.begin = interval_begin_ - begin_;
    interval_.length = now - interval_begin_;
    interval_.p50 = interval_latency_.Quantile(0.5);
    interval_.p99 = interval_latency_.Quantile(0.99);
    interval_.in_flight = in_flight_;
    if (interval_.length > Nanoseconds(0)) result_.intervals.push_back(interval_);
    interval_ = {};
    interval_latency_.Clear();
    interval_begin_ = now;
  }

  void Show(Nanoseconds now) const {
    LiveFigures figures;
    figures.elapsed = now - begin_;
    figures.ok = result_.all_ok;
    figures.failed = result_.all_failed;
    figures.in_flight = in_flight_;
    // The interval that runs is too short to tell where there was another one before.
    const bool first = result_.intervals.empty();
    const std::chrono::duration<double> length =
        first ? now - interval_begin_ : result_.intervals.back().length;
    const std::int64_t ok = first ? interval_.ok : result_.intervals.back().ok;
    figures.ok_per_second = static_cast<double>(ok) / length.count();
    figures.p50 = result_.latency.Quantile(0.5);
    figures.p99 = result_.latency.Quantile(0.99);
    show_(figures);
  }

  const LoadStep& step_;
  LoadEnvironment& environment_;
  const std::function<void(const LiveFigures&)>& show_;
  const Nanoseconds begin_;
  const Nanoseconds measured_begin_;
  const Nanoseconds end_;  // no request is due from then on

  Arrivals arrivals_;
  Nanoseconds next_due_ = Nanoseconds::max();
  std::deque<Nanoseconds> waiting_;  // due, not sent
  int in_flight_ = 0;
  std::int64_t measured_due_ = 0;
  bool over_ = false;  // no further request becomes due

  Nanoseconds last_answer_{0};
  Nanoseconds interval_begin_;
  LoadInterval interval_;
  LatencyHistogram interval_latency_;
  Nanoseconds next_show_;
  StepResult result_;
};

}  // namespace

StepResult RunStep(const LoadStep& step, LoadEnvironment* environment,
                   const std::function<void(const LiveFigures&)>& show) {
  return StepRunner(step, environment, show).Run();
}

}  // namespace sage::cli
