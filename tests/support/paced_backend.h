// A device whose stages take exactly the time they are told to, and compute nothing.
//
// For tests and benchmarks of what moves and when: copies to the device, attention and copies back
// are three resources, as a GPU's copy engines and its SMs are. Work of different streams overlaps
// where it is on different resources, and queues where it is on the same. Time passes asleep.
#ifndef SAGE_TESTS_SUPPORT_PACED_BACKEND_H_
#define SAGE_TESTS_SUPPORT_PACED_BACKEND_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "kernels/backend.h"

namespace sage::testing {

// Seconds of each stage; 0: no time at all.
struct Pace {
  double to_device_per_byte = 0;
  double attend_per_task = 0;
  double to_host_per_byte = 0;
  // Whether kernels read host memory, so that nothing is copied.
  bool unified_memory = false;
};

// How long each stage was in use, in nanoseconds: what it was told, and what the machine's clock
// and scheduler added. Thread-safe.
struct BusyTimes {
  std::atomic<std::int64_t> to_device = 0;
  std::atomic<std::int64_t> attend = 0;
  std::atomic<std::int64_t> to_host = 0;
};

// Takes every problem that is valid. Outputs are left as they are. `busy`, where given, outlives
// the backend.
std::unique_ptr<Backend> MakePacedBackend(const Pace& pace, BusyTimes* busy = nullptr);

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_PACED_BACKEND_H_
