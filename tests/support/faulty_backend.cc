#include "tests/support/faulty_backend.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "tests/support/forwarding_backend.h"

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

class FaultyStream final : public ForwardingStream {
 public:
  FaultyStream(std::unique_ptr<Stream> device, Faults& faults)
      : ForwardingStream(std::move(device)), faults_(faults) {}

  absl::Status PrepareKv(const KvTask& task, void* prepared) override {
    if (TakeOne(faults_.prepares)) return absl::InternalError("planted: prepare failed");
    return ForwardingStream::PrepareKv(task, prepared);
  }
  absl::Status Attend(std::span<const AttendTask> tasks, void* workspace) override {
    if (faults_.lost.load()) return Lost();
    if (TakeOne(faults_.attends)) return absl::InternalError("planted: attend failed");
    if (absl::Status status = ForwardingStream::Attend(tasks, workspace); !status.ok()) {
      return status;
    }
    if (faults_.hold_attends.load()) {
      absl::Status status = Then([this](const absl::Status&) {
        ++faults_.attends_held;
        faults_.attends_held.notify_all();
        faults_.hold_attends.wait(true);
      });
      if (!status.ok()) return status;
    }
    if (!faults_.corrupt_outputs.load()) return absl::OkStatus();
    return Then([tasks = std::vector<AttendTask>(tasks.begin(), tasks.end())](const absl::Status&) {
      for (const AttendTask& task : tasks) Corrupt(task);
    });
  }

 private:
  Faults& faults_;
};

class FaultyBackend final : public ForwardingBackend {
 public:
  FaultyBackend(std::unique_ptr<Backend> device, Faults& faults)
      : ForwardingBackend(std::move(device)), faults_(faults) {}

  absl::StatusOr<Memory> Allocate(MemoryKind kind, std::size_t bytes) override {
    if (TakeOne(faults_.allocations)) {
      return absl::ResourceExhaustedError("planted: allocation failed");
    }
    return ForwardingBackend::Allocate(kind, bytes);
  }
  absl::Status Health() const override {
    return faults_.lost.load() ? Lost() : ForwardingBackend::Health();
  }

 private:
  std::unique_ptr<Stream> Wrap(std::unique_ptr<Stream> stream) override {
    return std::make_unique<FaultyStream>(std::move(stream), faults_);
  }

  Faults& faults_;
};

}  // namespace

std::unique_ptr<Backend> MakeFaultyBackend(std::unique_ptr<Backend> device, Faults& faults) {
  return std::make_unique<FaultyBackend>(std::move(device), faults);
}

}  // namespace sage::testing
