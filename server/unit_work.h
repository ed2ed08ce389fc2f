// A unit on its way through a device: what the job hands to the engine, and what comes back.
#ifndef SAGE_SERVER_UNIT_WORK_H_
#define SAGE_SERVER_UNIT_WORK_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "kernels/block_lists.h"
#include "server/cost_model.h"
#include "server/slab_pool.h"

namespace sage::server {

// Device memory that one unit fills and later units read, of this request or of others.
struct DeviceCopy {
  Slab slab;
  std::unique_ptr<Event> ready;  // recorded behind what fills the slab
};

// A mask of one request, or a resident one that many share.
struct SharedMask {
  BlockMask mask;
  std::optional<BlockLists> lists;  // kept for a resident mask, where the device reads host memory
  std::shared_ptr<DeviceCopy> device;  // the engine alone; null until a unit has copied it
};

// What the units of one request share.
struct RequestContext {
  std::string tenant;
  int priority = 0;                      // larger first between requests of one tenant
  std::shared_ptr<SharedMask> mask;      // null: every block
  std::shared_ptr<const void> borrowed;  // what the units point into; for as long as they run
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  std::atomic<bool> cancelled = false;
};

// Keys and values of some heads, shared by the units whose queries read them: those of one request,
// or, where k and v are resident, those of many. What travelled lies in `host`; `task` points there
// until the engine has moved it to the device. What is resident is pointed to where it is.
struct KvGroup {
  KvTask task;
  Slab host;                  // k, with its scales where it has some, then v: what travelled
  std::uint64_t k_bytes = 0;  // in `host`
  std::uint64_t v_bytes = 0;
  std::uint64_t used_bytes = 0;  // of `task.used_blocks`, behind v

  Slab device;                           // the engine alone
  std::shared_ptr<DeviceCopy> prepared;  // the engine alone; null until a unit has prepared it
};

// Device seconds of a unit by stage; a launch's time is split among its units by their work.
struct UnitTimings {
  double queue = 0;
  double h2d = 0;
  double prepare = 0;
  double kernel = 0;
  double d2h = 0;
};

struct UnitResult {
  std::uint32_t unit = 0;
  absl::Status status;
  Slab out;  // output, then lse; defined only where status is OK
  UnitTimings timings;
};

// One unit, ready to run. `task.q`, its scales, `task.out` and `task.lse` point into the host
// slabs, or into device memory where q or the output is resident.
struct UnitWork {
  std::uint32_t unit = 0;
  AttendTask task;
  Slab q;                       // with its scales; empty where q is resident
  Slab out;                     // what travels back: output unless resident, then lse
  std::uint64_t q_bytes = 0;    // in `q`
  std::uint64_t out_bytes = 0;  // in `out`
  bool out_is_resident = false;
  DeviceWork device_work;  // what it asks of the device, by estimate
  double seconds = 0;      // how long that takes, by estimate
  std::shared_ptr<KvGroup> kv;
  std::shared_ptr<RequestContext> request;
  // Called once, on the engine's thread; must not block.
  std::function<void(UnitResult)> done;

  std::chrono::steady_clock::time_point submitted;  // set by the engine
};

}  // namespace sage::server

#endif  // SAGE_SERVER_UNIT_WORK_H_
