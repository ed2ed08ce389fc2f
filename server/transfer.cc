#include "server/transfer.h"

#include <algorithm>
#include <cstring>

namespace sage::server {
namespace {

constexpr std::size_t kZeroBytes = 1 << 20;

}  // namespace

absl::StatusOr<std::unique_ptr<Transfer>> Transfer::Create(Backend& backend) {
  absl::StatusOr<Memory> zeros = backend.Allocate(MemoryKind::kHost, kZeroBytes);
  if (!zeros.ok()) return zeros.status();
  std::memset(zeros->data(), 0, kZeroBytes);
  absl::StatusOr<std::unique_ptr<Stream>> stream = backend.CreateStream();
  if (!stream.ok()) return stream.status();
  return std::unique_ptr<Transfer>(new Transfer(*std::move(zeros), *std::move(stream)));
}

Transfer::~Transfer() {
  stream_.reset();  // waits for its callbacks
  Enqueue(nullptr);
  thread_.join();
}

void Transfer::Enqueue(std::function<void()> over) {
  const std::lock_guard lock(over_mutex_);
  over_.push_back(std::move(over));
  wake_.notify_one();
}

void Transfer::Run() {
  while (true) {
    std::function<void()> over;
    {
      std::unique_lock lock(over_mutex_);
      wake_.wait(lock, [this] { return !over_.empty(); });
      over = std::move(over_.front());
      over_.pop_front();
    }
    if (!over) return;
    over();
  }
}

absl::Status Transfer::ToDevice(std::byte* device, const std::byte* host, std::size_t bytes,
                                Done done) {
  const std::lock_guard lock(mutex_);
  return Finish(stream_->CopyToDevice(device, host, bytes), std::move(done));
}

absl::Status Transfer::ToHost(std::byte* host, const std::byte* device, std::size_t bytes,
                              Done done) {
  const std::lock_guard lock(mutex_);
  return Finish(stream_->CopyToHost(host, device, bytes), std::move(done));
}

absl::Status Transfer::Zero(std::byte* device, std::size_t bytes, Done done) {
  const std::lock_guard lock(mutex_);
  absl::Status status;
  for (std::size_t at = 0; at < bytes && status.ok(); at += kZeroBytes) {
    status = stream_->CopyToDevice(device + at, zeros_.data(), std::min(kZeroBytes, bytes - at));
  }
  return Finish(std::move(status), std::move(done));
}

absl::Status Transfer::Finish(absl::Status copies, Done done) {
  if (copies.ok()) {
    copies = stream_->Then([this, done = std::move(done)](absl::Status status) mutable {
      Enqueue([done = std::move(done), status = std::move(status)] { done(status); });
    });
  }
  // Whoever is told of a failure gives the memory back: nothing may be on its way any more.
  if (!copies.ok()) stream_->Synchronize().IgnoreError();
  return copies;
}

}  // namespace sage::server
