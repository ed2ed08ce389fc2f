// What units of a request take of memory and of the device.
#ifndef SAGE_SERVER_UNIT_COSTS_H_
#define SAGE_SERVER_UNIT_COSTS_H_

#include <cstdint>

#include "server/device.h"
#include "server/unit_payload.h"
#include "server/unit_tasks.h"

namespace sage::server {

// Bytes of a reservation: a unit's own slabs, and those of a KV group that it carries.
struct MemoryCost {
  std::uint64_t own = 0;
  std::uint64_t kv = 0;
};

// Externally synchronised.
class UnitCosts {
 public:
  // All of them outlive it.
  UnitCosts(const UnitPayload& payload, const UnitTasks& tasks, Device& device)
      : payload_(payload), tasks_(tasks), device_(device) {}

  MemoryCost HostMemory(const Unit& unit) const;
  MemoryCost DeviceMemory(const Unit& unit) const;
  // The largest memory of either kind that units whose payload fits the window can hold at once.
  std::uint64_t Peak(MemoryCost (UnitCosts::*cost)(const Unit&) const,
                     std::uint64_t window_bytes) const;

  // What a unit asks of the device where this part of its blocks is listed; how long all units
  // take then, by estimate.
  DeviceWork Work(const Unit& unit, double block_density) const;
  double EstimatedSeconds(double block_density) const;

 private:
  const UnitPayload& payload_;
  const UnitTasks& tasks_;
  Device& device_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_UNIT_COSTS_H_
