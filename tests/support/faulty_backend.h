// A backend that goes wrong when told to, for tests of what the service makes of it.
#ifndef SAGE_TESTS_SUPPORT_FAULTY_BACKEND_H_
#define SAGE_TESTS_SUPPORT_FAULTY_BACKEND_H_

#include <atomic>
#include <memory>

#include "kernels/backend.h"

namespace sage::testing {

// Switches of a FaultyBackend; thread-safe, outlive the backend.
struct Faults {
  // Each makes as many of the next calls fail.
  std::atomic<int> allocations = 0;  // RESOURCE_EXHAUSTED
  std::atomic<int> prepares = 0;     // INTERNAL
  std::atomic<int> attends = 0;      // INTERNAL
  // While set, attends wait at the device until it is cleared.
  std::atomic<bool> hold_attends = false;
  std::atomic<int> attends_held = 0;  // that have waited there, or do
  // Once set, the device is lost: attends and its health fail (UNAVAILABLE).
  std::atomic<bool> lost = false;
  // While set, one element of each attended task's output is wrong by a lot.
  std::atomic<bool> corrupt_outputs = false;
};

// Wraps `device`, which must have unified memory, since corruption is done on the host.
std::unique_ptr<Backend> MakeFaultyBackend(std::unique_ptr<Backend> device, Faults& faults);

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_FAULTY_BACKEND_H_
