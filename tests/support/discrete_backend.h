// A device with memory of its own, for machines that have none.
#ifndef SAGE_TESTS_SUPPORT_DISCRETE_BACKEND_H_
#define SAGE_TESTS_SUPPORT_DISCRETE_BACKEND_H_

#include <cstddef>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <utility>

#include "tests/support/forwarding_backend.h"

namespace sage::testing {

// The device memory that is allocated. Thread-safe.
class DeviceRanges {
 public:
  void Add(const void* begin, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    ranges_[static_cast<const std::byte*>(begin)] = bytes;
  }
  void Remove(const void* begin) {
    const std::lock_guard lock(mutex_);
    ranges_.erase(static_cast<const std::byte*>(begin));
  }
  // Whether `pointer` is null or points into device memory.
  bool Holds(const void* pointer) const {
    if (pointer == nullptr) return true;
    const auto* const byte = static_cast<const std::byte*>(pointer);
    const std::lock_guard lock(mutex_);
    const auto after = ranges_.upper_bound(byte);
    if (after == ranges_.begin()) return false;
    const auto& [begin, bytes] = *std::prev(after);
    return byte < begin + bytes;
  }

 private:
  mutable std::mutex mutex_;
  std::map<const std::byte*, std::size_t> ranges_;  // guarded by mutex_
};

// Refuses tasks that point to memory which such a device could not read.
class DiscreteStream final : public ForwardingStream {
 public:
  DiscreteStream(std::unique_ptr<Stream> device, const DeviceRanges& ranges)
      : ForwardingStream(std::move(device)), ranges_(ranges) {}

  absl::Status PrepareKv(const KvTask& task, void* prepared) override {
    if (!Holds(task) || !ranges_.Holds(prepared)) return HostPointer();
    return ForwardingStream::PrepareKv(task, prepared);
  }
  absl::Status Attend(std::span<const AttendTask> tasks, void* workspace) override {
    for (const AttendTask& task : tasks) {
      if (!Holds(task.kv) || !Holds(task)) return HostPointer();
    }
    return ForwardingStream::Attend(tasks, workspace);
  }

 private:
  static absl::Status HostPointer() {
    return absl::InternalError("a task points to memory that is not the device's");
  }
  bool Holds(const KvTask& task) const {
    const KeyScales scales = task.k_scales.value_or(KeyScales());
    return ranges_.Holds(task.k.data) && ranges_.Holds(task.v.data) &&
           ranges_.Holds(scales.scales) && ranges_.Holds(scales.smoothing) &&
           ranges_.Holds(task.used_blocks);
  }
  bool Holds(const AttendTask& task) const {
    const QueryScales scales = task.q_scales.value_or(QueryScales());
    return ranges_.Holds(task.prepared_kv) && ranges_.Holds(task.q.data) &&
           ranges_.Holds(scales.scales) && ranges_.Holds(scales.dot_smoothing) &&
           ranges_.Holds(task.mask.bits) && ranges_.Holds(task.mask.lists.row_begins) &&
           ranges_.Holds(task.mask.lists.blocks) && ranges_.Holds(task.out.data) &&
           ranges_.Holds(task.lse);
  }

  const DeviceRanges& ranges_;
};

// Wraps a backend whose kernels read host memory as one that has memory of its own, as a GPU: the
// server then copies to it and from it.
class DiscreteBackend : public ForwardingBackend {
 public:
  explicit DiscreteBackend(std::unique_ptr<Backend> device)
      : ForwardingBackend(std::move(device)), info_(ForwardingBackend::info()) {
    info_.unified_memory = false;
  }
  const BackendInfo& info() const override { return info_; }
  absl::StatusOr<Memory> Allocate(MemoryKind kind, std::size_t bytes) override {
    absl::StatusOr<Memory> memory = ForwardingBackend::Allocate(kind, bytes);
    if (!memory.ok() || kind == MemoryKind::kHost) return memory;
    std::byte* const data = memory->data();
    const std::size_t size = memory->size();
    ranges_.Add(data, size);
    return Memory(data, size,
                  [this, owned = std::make_shared<Memory>(*std::move(memory))](
                      std::byte* begin, std::size_t /*bytes*/) {
                    ranges_.Remove(begin);
                    owned->Reset();
                  });
  }

 private:
  std::unique_ptr<Stream> Wrap(std::unique_ptr<Stream> stream) override {
    return std::make_unique<DiscreteStream>(std::move(stream), ranges_);
  }

  BackendInfo info_;
  DeviceRanges ranges_;
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_DISCRETE_BACKEND_H_
