// Whether a request can be done in time, by estimate.
#ifndef SAGE_SERVER_IN_TIME_H_
#define SAGE_SERVER_IN_TIME_H_

#include <chrono>

#include "absl/status/status.h"
#include "server/ingest.h"

namespace sage::server {

// By the device: `own` seconds of it are needed, `ahead` are queued before, `left` remain to the
// deadline. RESOURCE_EXHAUSTED where `ahead` is more than `limit`, DEADLINE_EXCEEDED where the
// deadline cannot be met; both say when to try again, where that may help.
absl::Status CheckQueue(double own, double ahead, double left, std::chrono::milliseconds limit);

// By what brings payload in and answers out; DEADLINE_EXCEEDED likewise.
absl::Status CheckArrival(const Ingest::Arrival& arrival, double left);

}  // namespace sage::server

#endif  // SAGE_SERVER_IN_TIME_H_
