// A step of a load test: a constant load, held for a while, and what came of it.
#ifndef SAGE_CLIENT_CLI_LOAD_LOAD_STEP_H_
#define SAGE_CLIENT_CLI_LOAD_LOAD_STEP_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "client/cli/load/arrivals.h"
#include "client/cli/load/latency_histogram.h"
#include "client/cli/load/load_environment.h"

namespace sage::cli {

using Nanoseconds = std::chrono::nanoseconds;

struct LoadStep {
  // Closed loop: this many requests are under way at any time; the next one is sent when one ends.
  // Absent: open loop, requests are sent when they are due, whatever became of those before.
  std::optional<int> concurrency;
  ArrivalKind arrivals = ArrivalKind::kPoisson;  // of an open loop
  double rate = 0;                               // of an open loop, requests a second
  double load_before = 0;                        // concurrency or rate that the ramp begins from
  Nanoseconds ramp{0};  // the load grows along a straight line; not part of the figures
  Nanoseconds duration = Nanoseconds::max();  // of what is measured, after the ramp
  std::int64_t count = INT64_MAX;             // of requests measured; the earlier end counts
  // Requests of an open loop under way at once; more wait at the client, their latency running.
  int max_in_flight = 1024;
  std::uint64_t seed = 0;
};

// A second or so of a step. Requests count where they end.
struct LoadInterval {
  Nanoseconds begin{0};  // from the step's begin, ramp included
  Nanoseconds length{0};
  std::int64_t ok = 0;
  std::int64_t failed = 0;
  Nanoseconds p50{0};
  Nanoseconds p99{0};
  int in_flight = 0;  // at its end
};

struct LoadErrors {
  std::int64_t count = 0;
  std::string example;  // the first message
};

struct StepResult {
  LoadStep step;

  // Requests that were due after the ramp. Latencies are of those that succeeded.
  std::int64_t ok = 0;
  std::int64_t failed = 0;
  std::map<std::string, LoadErrors> errors;  // by the name of the status code
  Nanoseconds measured{0};                   // from the ramp's end to the last answer
  // From the moment that a request was due to its end: what a user waits, also where the client or
  // the server fell behind (no coordinated omission). In a closed loop a request is due when it is
  // sent.
  LatencyHistogram latency;
  LatencyHistogram service;       // from sending to the end
  LatencyHistogram server;        // the trailer's total
  Nanoseconds max_send_delay{0};  // of a request's sending after it was due
  double kernel_seconds = 0;      // sum over requests

  // All requests of the step, ramp included: what the server counts too.
  std::int64_t all_ok = 0;
  std::int64_t all_failed = 0;
  std::uint64_t all_bytes_in = 0;   // payload to the server, of requests that succeeded
  std::uint64_t all_bytes_out = 0;  // payload from the server, likewise

  std::vector<LoadInterval> intervals;
  bool stopped = false;  // ended early by the user

  double seconds() const { return std::chrono::duration<double>(measured).count(); }
  double ok_per_second() const { return seconds() > 0 ? static_cast<double>(ok) / seconds() : 0; }
};

// How a step is doing, for showing.
struct LiveFigures {
  Nanoseconds elapsed{0};
  std::int64_t ok = 0;
  std::int64_t failed = 0;
  int in_flight = 0;
  double ok_per_second = 0;  // over the last interval
  Nanoseconds p50{0};        // of the step so far
  Nanoseconds p99{0};
};

// Applies the load and waits for all answers. `show`, if set, is called a few times a second.
StepResult RunStep(const LoadStep& step, LoadEnvironment* environment,
                   const std::function<void(const LiveFigures&)>& show = {});

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_LOAD_STEP_H_
