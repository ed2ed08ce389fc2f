// Streams and events of the CPU backend.
#ifndef SAGE_KERNELS_CPU_CPU_STREAM_H_
#define SAGE_KERNELS_CPU_CPU_STREAM_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/work_queue.h"

namespace sage {

// How far the recordings of one event have come. Shared by the event and by the work that records
// or awaits it, so that the event may go first. Thread-safe.
class EventState {
 public:
  // Announces a recording and returns its number, counted from 1.
  std::uint64_t Announce();
  std::uint64_t announced() const;
  // Marks recording `number` reached, now.
  void Reach(std::uint64_t number);
  void AwaitReached(std::uint64_t number);
  // FAILED_PRECONDITION where the last recording was never made, or has not been reached.
  absl::StatusOr<std::chrono::steady_clock::time_point> ReachedAt() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::uint64_t announced_ = 0;
  std::set<std::uint64_t> pending_;  // announced and not reached, in whatever order streams come
  std::chrono::steady_clock::time_point reached_at_;  // of the last announced
};

class CpuEvent : public Event {
 public:
  CpuEvent() : state_(std::make_shared<EventState>()) {}

  absl::StatusOr<double> SecondsSince(const Event& earlier) const override;
  const std::shared_ptr<EventState>& state() const { return state_; }

 private:
  const std::shared_ptr<EventState> state_;
};

// A thread of its own that runs the work in order; attention and preparation spread over the pool.
// INVALID_ARGUMENT for tasks that break the rules of backend.h, before anything is queued.
class CpuStream : public Stream {
 public:
  // `pool` must outlive the stream.
  explicit CpuStream(ThreadPool& pool) : pool_(pool) {}

  absl::Status CopyToDevice(void* device, const void* host, std::size_t bytes) override;
  absl::Status CopyToHost(void* host, const void* device, std::size_t bytes) override;
  absl::Status PrepareKv(const KvTask& task, void* prepared) override;
  absl::Status Attend(std::span<const AttendTask> tasks, void* workspace) override;
  absl::Status Record(Event& event) override;
  absl::Status Wait(const Event& event) override;  // an event never recorded is not waited for
  absl::Status Then(std::function<void(absl::Status)> callback) override;
  // Reports, as a callback does, and so clears the failure.
  absl::Status Synchronize() override;

 private:
  ThreadPool& pool_;
  WorkQueue queue_;
};

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_CPU_STREAM_H_
