#include "tests/support/paced_backend.h"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace sage::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kAlignment = 4096;
constexpr std::size_t kPreparedBytes = 256;  // some, so that nothing special happens

// One thing at a time uses it.
class Resource {
 public:
  // `busy` may be null.
  explicit Resource(std::atomic<std::int64_t>* busy) : busy_(busy) {}

  void UseFor(double seconds) {
    if (seconds <= 0) return;
    const std::lock_guard lock(mutex_);
    const Clock::time_point start = Clock::now();
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    if (busy_ != nullptr) *busy_ += std::chrono::nanoseconds(Clock::now() - start).count();
  }

 private:
  std::atomic<std::int64_t>* const busy_;
  std::mutex mutex_;
};

struct Device {
  Device(const Pace& given, BusyTimes* busy)
      : pace(given),
        to_device(busy == nullptr ? nullptr : &busy->to_device),
        compute(busy == nullptr ? nullptr : &busy->attend),
        to_host(busy == nullptr ? nullptr : &busy->to_host) {}

  const Pace pace;
  Resource to_device, compute, to_host;
};

class PacedEvent final : public Event {
 public:
  absl::StatusOr<double> SecondsSince(const Event& earlier) const override {
    const auto& from = static_cast<const PacedEvent&>(earlier);
    return std::chrono::duration<double>(reached_at() - from.reached_at()).count();
  }

  // How often it was recorded, counting from the issuing of that work, and from its end.
  int Issue() {
    const std::lock_guard lock(mutex_);
    return ++issued_;
  }
  void Reach() {
    const std::lock_guard lock(mutex_);
    ++reached_;
    at_ = Clock::now();
    changed_.notify_all();
  }
  int issued() const {
    const std::lock_guard lock(mutex_);
    return issued_;
  }
  void Await(int count) const {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return reached_ >= count; });
  }

 private:
  Clock::time_point reached_at() const {
    const std::lock_guard lock(mutex_);
    return at_;
  }

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  int issued_ = 0;
  int reached_ = 0;
  Clock::time_point at_;
};

class PacedStream final : public Stream {
 public:
  explicit PacedStream(Device& device) : device_(device), thread_([this] { Run(); }) {}
  ~PacedStream() override {
    Enqueue(nullptr).IgnoreError();  // never fails
    thread_.join();
  }

  absl::Status CopyToDevice(void* /*device*/, const void* /*host*/, std::size_t bytes) override {
    return Use(device_.to_device, device_.pace.to_device_per_byte * static_cast<double>(bytes));
  }
  absl::Status CopyToHost(void* /*host*/, const void* /*device*/, std::size_t bytes) override {
    return Use(device_.to_host, device_.pace.to_host_per_byte * static_cast<double>(bytes));
  }
  absl::Status PrepareKv(const KvTask& /*task*/, void* /*prepared*/) override {
    return absl::OkStatus();
  }
  absl::Status Attend(std::span<const AttendTask> tasks, void* /*workspace*/) override {
    return Use(device_.compute, device_.pace.attend_per_task * static_cast<double>(tasks.size()));
  }
  absl::Status Record(Event& event) override {
    auto& paced = static_cast<PacedEvent&>(event);
    paced.Issue();
    return Enqueue([&paced] { paced.Reach(); });
  }
  absl::Status Wait(const Event& event) override {
    const auto& paced = static_cast<const PacedEvent&>(event);
    return Enqueue([&paced, count = paced.issued()] { paced.Await(count); });
  }
  absl::Status Then(std::function<void(absl::Status)> callback) override {
    return Enqueue([callback = std::move(callback)] { callback(absl::OkStatus()); });
  }
  absl::Status Synchronize() override {
    PacedEvent end;
    if (absl::Status status = Record(end); !status.ok()) return status;
    end.Await(1);
    return absl::OkStatus();
  }

 private:
  absl::Status Use(Resource& resource, double seconds) {
    return Enqueue([&resource, seconds] { resource.UseFor(seconds); });
  }
  absl::Status Enqueue(std::function<void()> work) {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(work));
    wake_.notify_one();
    return absl::OkStatus();
  }
  void Run() {
    while (true) {
      std::function<void()> work;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return !queue_.empty(); });
        work = std::move(queue_.front());
        queue_.pop_front();
      }
      if (!work) return;
      work();
    }
  }

  Device& device_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_; an empty one is the end
  std::thread thread_;
};

class PacedBackend final : public Backend {
 public:
  PacedBackend(const Pace& pace, BusyTimes* busy) : device_(pace, busy) {
    info_.name = "paced";
    info_.device_name = "a paced device";
    info_.kernel_path = "none";
    info_.device_memory_bytes = std::int64_t{1} << 30;
    info_.unified_memory = pace.unified_memory;
  }

  const BackendInfo& info() const override { return info_; }
  absl::Status CheckSupported(const AttentionProblem& /*problem*/) const override {
    return absl::OkStatus();
  }
  absl::StatusOr<Memory> Allocate(MemoryKind /*kind*/, std::size_t bytes) override {
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    auto* const data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
    if (data == nullptr) return absl::ResourceExhaustedError("host memory");
    return Memory(data, bytes, [](std::byte* memory, std::size_t) { std::free(memory); });
  }
  std::size_t PreparedKvBytes(const KvTask& /*task*/) const override { return kPreparedBytes; }
  std::size_t AttendWorkspaceBytes(std::span<const AttendTask> /*tasks*/) const override {
    return 0;
  }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    return std::make_unique<PacedStream>(device_);
  }
  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override {
    return std::make_unique<PacedEvent>();
  }
  absl::Status Health() const override { return absl::OkStatus(); }

 private:
  Device device_;
  BackendInfo info_;
};

}  // namespace

std::unique_ptr<Backend> MakePacedBackend(const Pace& pace, BusyTimes* busy) {
  return std::make_unique<PacedBackend>(pace, busy);
}

}  // namespace sage::testing
