#include "tests/support/faulty_backend.h"

#include <cstdint>
#include <utility>
#include <vector>

namespace sage::testing {
namespace {

// Takes one from `count` if there is one.
bool TakeOne(std::atomic<int>& count) {
  int seen = count.load();
  while (seen > 0) {
    if (count.compare_exchange_weak(seen, seen - 1)) return true;
  }
  return false;
}

absl::Status Lost() { return absl::UnavailableError("planted: the device is lost"); }

// Sets the sign and the top exponent bit of the first element: finite, and far from any average of
// values.
void Corrupt(const AttendTask& task) {
  auto* const bytes = static_cast<std::uint8_t*>(task.out.data);
  bytes[SizeOf(task.output_dtype) - 1] ^= 0xC0;
}

class FaultyStream final : public Stream {
 public:
  FaultyStream(std::unique_ptr<Stream> device, Faults& faults)
      : device_(std::move(device)), faults_(faults) {}

  absl::Status CopyToDevice(void* device, const void* host, std::size_t bytes) override {
    return device_->CopyToDevice(device, host, bytes);
  }
  absl::Status CopyToHost(void* host, const void* device, std::size_t bytes) override {
    return device_->CopyToHost(host, device, bytes);
  }
  absl::Status PrepareKv(const KvTask& task, void* prepared) override {
    if (TakeOne(faults_.prepares)) return absl::InternalError("planted: prepare failed");
    return device_->PrepareKv(task, prepared);
  }
  absl::Status Attend(std::span<const AttendTask> tasks, void* workspace) override {
    if (faults_.lost.load()) return Lost();
    if (TakeOne(faults_.attends)) return absl::InternalError("planted: attend failed");
    if (absl::Status status = device_->Attend(tasks, workspace); !status.ok()) return status;
    if (faults_.hold_attends.load()) {
      absl::Status status =
          device_->Then([this](const absl::Status&) { faults_.hold_attends.wait(true); });
      if (!status.ok()) return status;
    }
    if (!faults_.corrupt_outputs.load()) return absl::OkStatus();
    return device_->Then(
        [tasks = std::vector<AttendTask>(tasks.begin(), tasks.end())](const absl::Status&) {
          for (const AttendTask& task : tasks) Corrupt(task);
        });
  }
  absl::Status Record(Event& event) override { return device_->Record(event); }
  absl::Status Wait(const Event& event) override { return device_->Wait(event); }
  absl::Status Then(std::function<void(absl::Status)> callback) override {
    return device_->Then(std::move(callback));
  }
  absl::Status Synchronize() override { return device_->Synchronize(); }

 private:
  const std::unique_ptr<Stream> device_;
  Faults& faults_;
};

class FaultyBackend final : public Backend {
 public:
  FaultyBackend(std::unique_ptr<Backend> device, Faults& faults)
      : device_(std::move(device)), faults_(faults) {}

  const BackendInfo& info() const override { return device_->info(); }
  absl::Status CheckSupported(const AttentionProblem& problem) const override {
    return device_->CheckSupported(problem);
  }
  absl::StatusOr<Memory> Allocate(MemoryKind kind, std::size_t bytes) override {
    if (TakeOne(faults_.allocations)) {
      return absl::ResourceExhaustedError("planted: allocation failed");
    }
    return device_->Allocate(kind, bytes);
  }
  std::size_t PreparedKvBytes(const KvTask& task) const override {
    return device_->PreparedKvBytes(task);
  }
  std::size_t AttendWorkspaceBytes(std::span<const AttendTask> tasks) const override {
    return device_->AttendWorkspaceBytes(tasks);
  }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    absl::StatusOr<std::unique_ptr<Stream>> stream = device_->CreateStream();
    if (!stream.ok()) return stream.status();
    return std::make_unique<FaultyStream>(*std::move(stream), faults_);
  }
  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override { return device_->CreateEvent(); }
  absl::Status Health() const override { return faults_.lost.load() ? Lost() : device_->Health(); }

 private:
  const std::unique_ptr<Backend> device_;
  Faults& faults_;
};

}  // namespace

std::unique_ptr<Backend> MakeFaultyBackend(std::unique_ptr<Backend> device, Faults& faults) {
  return std::make_unique<FaultyBackend>(std::move(device), faults);
}

}  // namespace sage::testing
