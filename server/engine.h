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
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "server/cost_model.h"
#include "server/slab_pool.h"
#include "server/unit_queue.h"
#include "server/unit_work.h"

namespace sage::server {

struct EngineOptions {
  int streams = 2;
  // Units share a launch while their operations (4 rows keys head_dim, masks not counted) stay
  // below this, so that a launch stays short enough to cancel between launches.
  double launch_operations = 4e8;
  int launch_units = 64;
  // A unit that copies more than this, in and out, has a launch to itself: its copies are to
  // overlap with the kernels of others, which is worth more than what a launch costs.
  std::uint64_t launch_copy_bytes = 512 << 10;
  // Told of each launch, with its units, by whoever launches; must not call into the engine.
  std::function<void(std::size_t)> launched = [](std::size_t /*units*/) {};
};

// Thread-safe. Destruction fails what is queued with UNAVAILABLE and waits for what runs.
class Engine {
 public:
  // `device_pool` serves device memory of `backend`; both outlive the engine.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(Backend& backend, SlabPool& device_pool,
                                                        const EngineOptions& options);
  ~Engine();

  // The first unit of a KV group to run copies and prepares it for the others. Launches the unit at
  // once where nothing is to be done before it: a thread less to wake. `work.done` is never called
  // from here.
  void Submit(UnitWork work);

  // Ends all units of `request` with CANCELLED: those that are not running yet soon, others as soon
  // as the backend lets go of them.
  void Cancel(RequestContext& request);

  std::size_t queue_depth() const;
  std::uint64_t units_computed() const { return units_computed_.load(std::memory_order_relaxed); }
  std::uint64_t launches() const { return launches_.load(std::memory_order_relaxed); }
  std::uint64_t failed_launches() const { return failed_launches_.load(std::memory_order_relaxed); }

  // What the device takes for its work, corrected by every launch.
  CostModel& cost_model() { return cost_model_; }

  // Estimated device time of all units that are queued or running.
  double queued_seconds() const;
  // Of those that run before the last of `own_seconds` more of this tenant and priority: with these
  // the least that a request must wait for its end.
  double SecondsAhead(const std::string& tenant, int priority, double own_seconds) const;

 private:
  // A stream and the launch on it.
  struct Lane {
    std::unique_ptr<Stream> stream;
    // start, copied in, prepared, attended, copied out
    std::unique_ptr<Event> events[5];
    bool busy = false;   // written with mutex_ held
    double seconds = 0;  // by estimate; written with mutex_ held

    // The launch.
    DeviceWork device_work;
    std::chrono::steady_clock::time_point issued;
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
  void AwaitNews(std::unique_lock<std::mutex>& lock);
  bool HasNews();                     // with mutex_ held: besides units to launch
  Lane* FinishedLane();               // likewise; null where none is
  Lane* FreeLane();                   // likewise; null where every one is busy
  std::vector<UnitWork> TakeBatch();  // likewise
  double RunningSeconds() const;      // with mutex_ held
  std::uint64_t CopyBytes(const UnitWork& work) const;
  // Finishes units that must not start any more.
  static void DropUnwanted(std::vector<UnitWork>& works);
  void Launch(Lane& lane, std::vector<UnitWork> works);
  absl::Status Issue(Lane& lane);
  absl::Status CopyIn(Lane& lane, UnitWork& work);
  absl::Status CopyMask(Lane& lane, UnitWork& work);
  absl::Status Prepare(Lane& lane, UnitWork& work);
  void Complete(Lane& lane, absl::Status status);

  Backend& backend_;
  SlabPool& device_pool_;
  const EngineOptions options_;
  CostModel cost_model_;
  std::atomic<std::uint64_t> units_computed_ = 0;
  std::atomic<std::uint64_t> launches_ = 0;
  std::atomic<std::uint64_t> failed_launches_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  UnitQueue queue_;
  std::chrono::steady_clock::time_point busy_since_;  // or the last launch's end, where later
  bool cancel_requested_ = false;
  bool stopping_ = false;
  // Some thread is the driver, the one that launches, completes and drops: at first thread_.
  bool driven_ = true;

  // The driver's alone, but for what says otherwise, and so are the parts of units that are the
  // engine's alone. Streams wait for their callbacks before the above goes.
  std::vector<Lane> lanes_;
  std::thread thread_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_ENGINE_H_
