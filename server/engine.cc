#include "server/engine.h"

#include <algorithm>
#include <array>

#include "absl/status/status.h"

namespace sage::server {
namespace {

using Clock = std::chrono::steady_clock;

double Operations(const AttendTask& task) {
  return 4.0 * static_cast<double>(task.num_heads_q * task.q_rows) *
         static_cast<double>(task.kv.length_k) * static_cast<double>(task.kv.head_dim);
}

bool IsCancelled(const UnitWork& work) {
  return work.request->cancelled.load(std::memory_order_relaxed);
}

absl::Status Cancelled() { return absl::CancelledError("the request was cancelled"); }

// Why a unit must not start any more, or OK.
absl::Status WhyNot(const UnitWork& work, Clock::time_point now) {
  if (IsCancelled(work)) return Cancelled();
  if (now >= work.request->deadline) {
    return absl::DeadlineExceededError("the deadline passed before all units had run");
  }
  return absl::OkStatus();
}

// The same place in a copy of the slab that `from` points into; null stays null.
template <typename T>
const T* Moved(const T* from, const Slab& slab, const Slab& copy) {
  if (from == nullptr) return nullptr;
  const std::ptrdiff_t offset = reinterpret_cast<const std::byte*>(from) - slab.data();
  return reinterpret_cast<const T*>(copy.data() + offset);
}

void Finish(UnitWork& work, UnitResult result) {
  result.unit = work.unit;
  // Give input memory back before the result is seen, so that whoever sees it can count on it.
  work.q.Reset();
  work.kv.reset();
  work.request.reset();
  auto done = std::move(work.done);
  done(std::move(result));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(Backend& backend, SlabPool& device_pool,
                                                       const EngineOptions& options) {
  std::unique_ptr<Engine> engine(new Engine(backend, device_pool, options));
  engine->lanes_.resize(options.streams);
  for (Lane& lane : engine->lanes_) {
    absl::StatusOr<std::unique_ptr<Stream>> stream = backend.CreateStream();
    if (!stream.ok()) return stream.status();
    lane.stream = *std::move(stream);
    for (std::unique_ptr<Event>& event : lane.events) {
      absl::StatusOr<std::unique_ptr<Event>> created = backend.CreateEvent();
      if (!created.ok()) return created.status();
      event = *std::move(created);
    }
  }
  engine->thread_ = std::thread([raw = engine.get()] { raw->Run(); });
  return engine;
}

Engine::~Engine() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Engine::Submit(UnitWork work) {
  work.submitted = Clock::now();
  std::unique_lock lock(mutex_);
  const bool first = queue_.empty() && WhyNot(work, work.submitted).ok();
  queue_.Push(std::move(work));
  Lane* const lane = first && !driven_ && !HasNews() ? FreeLane() : nullptr;
  if (lane != nullptr) {
    driven_ = true;
    std::vector<UnitWork> batch = TakeBatch();
    lock.unlock();
    Launch(*lane, std::move(batch));
    lock.lock();
    driven_ = false;
    // The engine's thread was told of what came meanwhile while it was not its turn.
    if (!HasNews() && queue_.empty()) return;
  }
  lock.unlock();
  wake_.notify_one();
}

void Engine::Cancel(RequestContext& request) {
  request.cancelled.store(true, std::memory_order_relaxed);
  {
    const std::lock_guard lock(mutex_);
    cancel_requested_ = true;
  }
  wake_.notify_one();
}

std::size_t Engine::queue_depth() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

double Engine::queued_seconds() const {
  const std::lock_guard lock(mutex_);
  return RunningSeconds() + queue_.seconds();
}

double Engine::SecondsAhead(const std::string& tenant, int priority, double own_seconds) const {
  const std::lock_guard lock(mutex_);
  return RunningSeconds() + queue_.SecondsAhead(tenant, priority, own_seconds);
}

double Engine::RunningSeconds() const {
  double seconds = 0;
  for (const Lane& lane : lanes_) seconds += lane.seconds;
  if (seconds == 0) return 0;
  const double passed = std::chrono::duration<double>(Clock::now() - busy_since_).count();
  return std::max(0.0, seconds - passed);
}

Engine::Lane* Engine::FinishedLane() {
  const auto lane = std::find_if(lanes_.begin(), lanes_.end(),
                                 [](const Lane& lane) { return lane.finished.has_value(); });
  return lane == lanes_.end() ? nullptr : &*lane;
}

bool Engine::HasNews() { return stopping_ || cancel_requested_ || FinishedLane() != nullptr; }

Engine::Lane* Engine::FreeLane() {
  const auto lane =
      std::find_if(lanes_.begin(), lanes_.end(), [](const Lane& lane) { return !lane.busy; });
  return lane == lanes_.end() ? nullptr : &*lane;
}

void Engine::AwaitNews(std::unique_lock<std::mutex>& lock) {
  driven_ = false;
  do {
    wake_.wait(lock);
  } while (driven_);
  driven_ = true;
}

void Engine::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    Lane* const finished = FinishedLane();
    Lane* const free_lane = FreeLane();

    if (finished != nullptr) {
      absl::Status status = *std::exchange(finished->finished, std::nullopt);
      lock.unlock();
      Complete(*finished, std::move(status));
      lock.lock();
    } else if (stopping_ || cancel_requested_) {
      // Units that must not start leave the queue in their order.
      std::vector<UnitWork> dropped =
          queue_.Extract([this](const UnitWork& work) { return stopping_ || IsCancelled(work); });
      cancel_requested_ = false;
      if (stopping_ && dropped.empty()) {
        if (std::none_of(lanes_.begin(), lanes_.end(), [](const Lane& l) { return l.busy; })) {
          return;
        }
        AwaitNews(lock);
        continue;
      }
      lock.unlock();
      for (UnitWork& work : dropped) {
        absl::Status why = WhyNot(work, Clock::now());
        if (why.ok()) why = absl::UnavailableError("the server is shutting down");
        Finish(work, {.status = std::move(why), .out = {}, .timings = {}});
      }
      lock.lock();
    } else if (free_lane != nullptr && !queue_.empty()) {
      std::vector<UnitWork> batch = TakeBatch();
      lock.unlock();
      DropUnwanted(batch);
      if (!batch.empty()) Launch(*free_lane, std::move(batch));
      lock.lock();
    } else {
      AwaitNews(lock);
    }
  }
}

std::vector<UnitWork> Engine::TakeBatch() {
  std::vector<UnitWork> batch;
  double operations = 0;
  while (!queue_.empty() && batch.size() < static_cast<std::size_t>(options_.launch_units)) {
    const UnitWork& next = queue_.Next();
    operations += Operations(next.task);
    const bool alone = CopyBytes(next) > options_.launch_copy_bytes;
    if (!batch.empty() && (alone || operations > options_.launch_operations)) break;
    batch.push_back(queue_.Pop());
    if (alone) break;
  }
  return batch;
}

std::uint64_t Engine::CopyBytes(const UnitWork& work) const {
  if (backend_.info().unified_memory) return 0;
  return work.q_bytes + work.out_bytes +
         (work.task.q_begin == 0 ? work.kv->k_bytes + work.kv->v_bytes : 0);
}

void Engine::DropUnwanted(std::vector<UnitWork>& works) {
  const Clock::time_point now = Clock::now();
  const auto unwanted = std::stable_partition(
      works.begin(), works.end(), [now](const UnitWork& work) { return WhyNot(work, now).ok(); });
  for (auto work = unwanted; work != works.end(); ++work) {
    Finish(*work, {.status = WhyNot(*work, now), .out = {}, .timings = {}});
  }
  works.erase(unwanted, works.end());
}

void Engine::Launch(Lane& lane, std::vector<UnitWork> works) {
  const Clock::time_point now = Clock::now();
  lane.works = std::move(works);
  lane.device_work = {};
  for (const UnitWork& work : lane.works) lane.device_work += work.device_work;
  lane.device_work[DeviceWork::kLaunches] = 1;
  lane.issued = now;
  {
    const std::lock_guard lock(mutex_);
    if (std::none_of(lanes_.begin(), lanes_.end(), [](const Lane& l) { return l.busy; })) {
      busy_since_ = now;
    }
    lane.busy = true;
    lane.seconds = cost_model_.Seconds(lane.device_work);
  }
  launches_.fetch_add(1, std::memory_order_relaxed);
  options_.launched(lane.works.size());
  lane.issue_status = Issue(lane);
  // Even after a failure: earlier work of this launch may still be using its memory.
  const auto finish = [this, &lane](absl::Status status) {
    // Notified under the lock: once Run() sees the end, the engine may go.
    const std::lock_guard lock(mutex_);
    lane.finished = std::move(status);
    wake_.notify_one();
  };
  const absl::Status then = lane.stream->Then(finish);
  if (!then.ok()) {
    lane.stream->Synchronize().IgnoreError();  // the reason is `then`
    finish(then);
  }
}

absl::Status Engine::Issue(Lane& lane) {
  const bool unified = backend_.info().unified_memory;
  Stream& stream = *lane.stream;
  absl::Status status = stream.Record(*lane.events[0]);

  for (std::size_t i = 0; i < lane.works.size() && !unified && status.ok(); ++i) {
    status = CopyIn(lane, lane.works[i]);
  }
  if (status.ok()) status = stream.Record(*lane.events[1]);

  for (std::size_t i = 0; i < lane.works.size() && status.ok(); ++i) {
    status = Prepare(lane, lane.works[i]);
  }
  if (status.ok()) status = stream.Record(*lane.events[2]);

  if (status.ok()) {
    std::vector<AttendTask> tasks;
    tasks.reserve(lane.works.size());
    for (const UnitWork& work : lane.works) tasks.push_back(work.task);
    absl::StatusOr<Slab> workspace = device_pool_.Acquire(backend_.AttendWorkspaceBytes(tasks));
    status = workspace.status();
    if (status.ok()) {
      lane.slabs.push_back(*std::move(workspace));
      status = stream.Attend(tasks, lane.slabs.back().data());
    }
  }
  if (status.ok()) status = stream.Record(*lane.events[3]);

  for (std::size_t i = 0; i < lane.works.size() && !unified && status.ok(); ++i) {
    const UnitWork& work = lane.works[i];
    if (work.out_bytes == 0) continue;
    status = stream.CopyToHost(work.out.data(), lane.device_outs[i], work.out_bytes);
  }
  if (status.ok()) status = stream.Record(*lane.events[4]);
  return status;
}

absl::Status Engine::CopyMask(Lane& lane, UnitWork& work) {
  Stream& stream = *lane.stream;
  SharedMask& shared = *work.request->mask;
  const std::span<const std::uint8_t> bits = shared.mask.bits();
  if (shared.device == nullptr) {
    absl::StatusOr<Slab> slab = device_pool_.Acquire(bits.size());
    if (!slab.ok()) return slab.status();
    absl::StatusOr<std::unique_ptr<Event>> ready = backend_.CreateEvent();
    if (!ready.ok()) return ready.status();
    auto copy = std::make_shared<DeviceCopy>(DeviceCopy{*std::move(slab), *std::move(ready)});
    lane.copies.push_back(copy);
    absl::Status status = stream.CopyToDevice(copy->slab.data(), bits.data(), bits.size());
    if (status.ok()) status = stream.Record(*copy->ready);
    if (!status.ok()) return status;
    shared.device = std::move(copy);
  } else {
    lane.copies.push_back(shared.device);
    if (absl::Status status = stream.Wait(*shared.device->ready); !status.ok()) return status;
  }
  work.task.mask.bits = reinterpret_cast<const std::uint8_t*>(shared.device->slab.data()) +
                        (work.task.mask.bits - bits.data());
  return absl::OkStatus();
}

absl::Status Engine::CopyIn(Lane& lane, UnitWork& work) {
  Stream& stream = *lane.stream;
  if (work.request->mask != nullptr) {
    if (absl::Status status = CopyMask(lane, work); !status.ok()) return status;
  }

  // Keys and values that travelled, with the first unit that reads them.
  KvGroup& kv = *work.kv;
  if (kv.host && !kv.device) {
    const std::uint64_t bytes = kv.k_bytes + kv.v_bytes + kv.used_bytes;
    absl::StatusOr<Slab> slab = device_pool_.Acquire(bytes);
    if (!slab.ok()) return slab.status();
    kv.device = *std::move(slab);
    std::byte* const device = kv.device.data();
    if (absl::Status status = stream.CopyToDevice(device, kv.host.data(), bytes); !status.ok()) {
      return status;
    }
    if (kv.k_bytes > 0) kv.task.k.data = device;
    if (kv.v_bytes > 0) kv.task.v.data = device + kv.k_bytes;
    if (std::optional<KeyScales>& scales = kv.task.k_scales; scales.has_value()) {
      scales->scales = Moved(scales->scales, kv.host, kv.device);
      scales->smoothing = Moved(scales->smoothing, kv.host, kv.device);
    }
    kv.task.used_blocks = Moved(kv.task.used_blocks, kv.host, kv.device);
  }

  // Queries, and room for the output.
  absl::StatusOr<Slab> q = device_pool_.Acquire(work.q_bytes);
  if (!q.ok()) return q.status();
  absl::StatusOr<Slab> out = device_pool_.Acquire(work.out_bytes);
  if (!out.ok()) return out.status();
  if (work.q_bytes > 0) {
    if (absl::Status status = stream.CopyToDevice(q->data(), work.q.data(), work.q_bytes);
        !status.ok()) {
      return status;
    }
    work.task.q.data = q->data();
    if (std::optional<QueryScales>& scales = work.task.q_scales; scales.has_value()) {
      scales->scales = Moved(scales->scales, work.q, *q);
      scales->dot_smoothing = Moved(scales->dot_smoothing, work.q, *q);
    }
  }
  if (work.task.lse != nullptr) {
    const std::ptrdiff_t lse_offset = reinterpret_cast<std::byte*>(work.task.lse) - work.out.data();
    work.task.lse = reinterpret_cast<float*>(out->data() + lse_offset);
  }
  if (!work.out_is_resident) work.task.out.data = out->data();
  lane.device_outs.push_back(out->data());
  lane.slabs.push_back(*std::move(q));
  lane.slabs.push_back(*std::move(out));
  return absl::OkStatus();
}

absl::Status Engine::Prepare(Lane& lane, UnitWork& work) {
  Stream& stream = *lane.stream;
  KvGroup& kv = *work.kv;
  if (kv.prepared == nullptr) {
    absl::StatusOr<Slab> slab = device_pool_.Acquire(backend_.PreparedKvBytes(kv.task));
    if (!slab.ok()) return slab.status();
    absl::StatusOr<std::unique_ptr<Event>> ready = backend_.CreateEvent();
    if (!ready.ok()) return ready.status();
    auto prepared = std::make_shared<DeviceCopy>(DeviceCopy{*std::move(slab), *std::move(ready)});
    lane.copies.push_back(prepared);
    absl::Status status = stream.PrepareKv(kv.task, prepared->slab.data());
    if (status.ok()) status = stream.Record(*prepared->ready);
    if (!status.ok()) return status;
    kv.prepared = std::move(prepared);
  } else {
    lane.copies.push_back(kv.prepared);
    if (absl::Status status = stream.Wait(*kv.prepared->ready); !status.ok()) return status;
  }
  work.task.kv = kv.task;
  work.task.prepared_kv = kv.prepared->slab.data();
  return absl::OkStatus();
}

void Engine::Complete(Lane& lane, absl::Status status) {
  if (!lane.issue_status.ok()) status = lane.issue_status;
  std::array<double, 4> seconds = {};
  for (std::size_t i = 0; i < seconds.size() && status.ok(); ++i) {
    absl::StatusOr<double> elapsed = lane.events[i + 1]->SecondsSince(*lane.events[i]);
    if (elapsed.ok()) {
      seconds[i] = *elapsed;
    } else {
      status = elapsed.status();
    }
  }

  // What a failed launch should have filled for others may be anything: they start over.
  for (const UnitWork& work : lane.works) {
    if (status.ok()) break;
    work.kv->prepared.reset();
    if (work.request->mask != nullptr) work.request->mask->device.reset();
  }

  // The launch is over: its memory goes back before the results are seen, and the lane is free
  // again.
  lane.slabs.clear();
  lane.copies.clear();
  lane.device_outs.clear();
  std::vector<UnitWork> works = std::move(lane.works);
  lane.works.clear();
  const Clock::time_point now = Clock::now();
  Clock::time_point begun;
  {
    const std::lock_guard lock(mutex_);
    // Launches that overlap share the device: each counts from the end of the one before it.
    begun = std::max(lane.issued, busy_since_);
    busy_since_ = now;
    lane.busy = false;
    lane.seconds = 0;
  }

  double operations = 0;
  for (const UnitWork& work : works) operations += Operations(work.task);
  double on_device = 0;
  for (const double stage : seconds) on_device += stage;
  if (status.ok()) {
    units_computed_.fetch_add(works.size(), std::memory_order_relaxed);
    // What is abandoned takes any time.
    if (std::none_of(works.begin(), works.end(), IsCancelled)) {
      cost_model_.Observe(lane.device_work, std::chrono::duration<double>(now - begun).count());
    }
  } else {
    failed_launches_.fetch_add(1, std::memory_order_relaxed);
  }
  for (UnitWork& work : works) {
    const double share = operations > 0 ? Operations(work.task) / operations
                                        : 1.0 / static_cast<double>(works.size());
    const double waited = std::chrono::duration<double>(now - work.submitted).count() - on_device;
    Finish(work, {.status = status.ok() && IsCancelled(work) ? Cancelled() : status,
                  .out = std::move(work.out),
                  .timings = {.queue = std::max(0.0, waited),
                              .h2d = seconds[0] * share,
                              .prepare = seconds[1] * share,
                              .kernel = seconds[2] * share,
                              .d2h = seconds[3] * share}});
  }
}

}  // namespace sage::server
