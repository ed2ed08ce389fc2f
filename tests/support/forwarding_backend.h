// A backend that hands everything on to another: the base of those that change a call or two.
#ifndef SAGE_TESTS_SUPPORT_FORWARDING_BACKEND_H_
#define SAGE_TESTS_SUPPORT_FORWARDING_BACKEND_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <utility>

#include "kernels/backend.h"

namespace sage::testing {

class ForwardingStream : public Stream {
 public:
  explicit ForwardingStream(std::unique_ptr<Stream> device) : device_(std::move(device)) {}

  absl::Status CopyToDevice(void* device, const void* host, std::size_t bytes) override {
    return device_->CopyToDevice(device, host, bytes);
  }
  absl::Status CopyToHost(void* host, const void* device, std::size_t bytes) override {
    return device_->CopyToHost(host, device, bytes);
  }
  absl::Status PrepareKv(const KvTask& task, void* prepared) override {
    return device_->PrepareKv(task, prepared);
  }
  absl::Status Attend(std::span<const AttendTask> tasks, void* workspace) override {
    return device_->Attend(tasks, workspace);
  }
  absl::Status Record(Event& event) override { return device_->Record(event); }
  absl::Status Wait(const Event& event) override { return device_->Wait(event); }
  absl::Status Then(std::function<void(absl::Status)> callback) override {
    return device_->Then(std::move(callback));
  }
  absl::Status Synchronize() override { return device_->Synchronize(); }

 private:
  const std::unique_ptr<Stream> device_;
};

class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> device) : device_(std::move(device)) {}

  const BackendInfo& info() const override { return device_->info(); }
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
    absl::StatusOr<std::unique_ptr<Stream>> stream = device_->CreateStream();
    if (!stream.ok()) return stream;
    return Wrap(*std::move(stream));
  }
  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override { return device_->CreateEvent(); }
  absl::Status Health() const override { return device_->Health(); }

 private:
  // The stream that stands for one of the device's.
  virtual std::unique_ptr<Stream> Wrap(std::unique_ptr<Stream> stream) { return stream; }

  const std::unique_ptr<Backend> device_;
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_FORWARDING_BACKEND_H_
