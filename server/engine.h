// The engine of one device: takes units that have all their payload, runs them on a pool of streams
// and hands back their outputs.
//
//   queue -> [copy in] -> prepare -> attend -> [copy out] -> done
//
// Each stream carries one launch at a time; with several streams the copies of one launch overlap
// the kernels of another. Small units that wait together, of any requests, share a launch. Copies
// are left out where the device reads host memory.
#ifndef SAGE_SERVER_ENGINE_H_
#define SAGE_SERVER_ENGINE_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
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
  std::shared_ptr<DeviceCopy> device;  // engine thread only; null until a unit has copied it
};

// What the units of one request share.
struct RequestContext {
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

  Slab device;                           // engine thread only
  std::shared_ptr<DeviceCopy> prepared;  // engine thread only; null until a unit has prepared it
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
  std::shared_ptr<KvGroup> kv;
  std::shared_ptr<RequestContext> request;
  // Called once, on the engine's thread; must not block.
  std::function<void(UnitResult)> done;

  std::chrono::steady_clock::time_point submitted;  // set by the engine
};

struct EngineOptions {
  int streams = 2;
  // Units share a launch while their operations (4 rows keys head_dim, masks not counted) stay
  // below this, so that a launch stays short enough to cancel between launches.
  double launch_operations = 4e8;
  int launch_units = 64;
  // A unit that copies more than this, in and out, has a launch to itself: its copies are to
  // overlap with the kernels of others, which is worth more than what a launch costs.
  std::uint64_t launch_copy_bytes = 512 << 10;
};

// Thread-safe. Destruction fails what is queued with UNAVAILABLE and waits for what runs.
class Engine {
 public:
  // `device_pool` serves device memory of `backend`; both outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(Backend& backend, SlabPool& device_pool,
                                                        const EngineOptions& options);
  ~Engine();

  // The first unit of a KV group to run copies and prepares it for the others.
  void Submit(UnitWork work);

  // Ends all units of `request` that are not running yet with CANCELLED, and soon.
  void Cancel(RequestContext& request);

  std::size_t queue_depth() const;
  std::uint64_t units_computed() const { return units_computed_.load(std::memory_order_relaxed); }

 private:
  // A stream and the launch on it.
  struct Lane {
    std::unique_ptr<Stream> stream;
    // start, copied in, prepared, attended, copied out
    std::unique_ptr<Event> events[5];
    bool busy = false;

    // The launch.
    std::vector<UnitWork> works;
    std::vector<Slab> slabs;                          // device inputs, outputs and workspace
    std::vector<std::byte*> device_outs;              // what is copied out, a unit each
    std::vector<std::shared_ptr<DeviceCopy>> copies;  // masks and prepared keys that it reads
    absl::Status issue_status;
    std::optional<absl::Status> finished;  // set by the backend's callback; guarded by mutex_
  };

  Engine(Backend& backend, SlabPool& device_pool, const EngineOptions& options)
      : backend_(backend), device_pool_(device_pool), options_(options) {}

  void Run();
  std::vector<UnitWork> TakeBatch();  // with mutex_ held
  std::uint64_t CopyBytes(const UnitWork& work) const;
  void Launch(Lane& lane, std::vector<UnitWork> works);
  absl::Status Issue(Lane& lane);
  absl::Status CopyIn(Lane& lane, UnitWork& work);
  absl::Status CopyMask(Lane& lane, UnitWork& work);
  absl::Status Prepare(Lane& lane, UnitWork& work);
  void Complete(Lane& lane, absl::Status status);

  Backend& backend_;
  SlabPool& device_pool_;
  const EngineOptions options_;
  std::atomic<std::uint64_t> units_computed_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  std::deque<UnitWork> queue_;
  bool cancel_requested_ = false;
  bool stopping_ = false;

  // Engine thread only, but for `finished`. Streams wait for their callbacks before the above goes.
  std::vector<Lane> lanes_;
  std::thread thread_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_ENGINE_H_
