// A device with memory of its own, for machines that have none.
#ifndef SAGE_TESTS_SUPPORT_DISCRETE_BACKEND_H_
#define SAGE_TESTS_SUPPORT_DISCRETE_BACKEND_H_

#include <cstddef>
#include <memory>
#include <span>
#include <utility>

#include "kernels/backend.h"

namespace sage::testing {

// Wraps a backend whose kernels read host memory as one that has memory of its own, as a GPU: the
// server then copies to it and from it.
class DiscreteBackend : public Backend {
 public:
  explicit DiscreteBackend(std::unique_ptr<Backend> device)
      : device_(std::move(device)), info_(device_->info()) {
    info_.unified_memory = false;
  }
  const BackendInfo& info() const override { return info_; }
  absl::Status CheckSupported(const AttentionProblem& problem) const override {
    return device_->CheckSupported(problem);
  }
  absl::StatusOr<Memory> Allocate(MemoryKind kind, std::size_t bytes) override {
    return device_->Allocate(kind, bytes);
  }
  std::size_t PreparedKvBytes(const KvTask& task) const override {
    return device_->PreparedKvBytes(task);
  }
  std::size_t AttendWorkspaceBytes(std::span<const AttendTask> tasks) const override {
    return device_->AttendWorkspaceBytes(tasks);
  }
  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    return device_->CreateStream();
  }
  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override { return device_->CreateEvent(); }
  absl::Status Health() const override { return device_->Health(); }

 private:
  const std::unique_ptr<Backend> device_;
  BackendInfo info_;
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_DISCRETE_BACKEND_H_
