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

absl::Status Transfer::ToDevice(std::byte* device, const std::byte* host, std::size_t bytes,
                                Done done) {
  const std::lock_guard lock(mutex_);
  absl::Status status = stream_->CopyToDevice(device, host, bytes);
  return status.ok() ? stream_->Then(std::move(done)) : status;
}

absl::Status Transfer::ToHost(std::byte* host, const std::byte* device, std::size_t bytes,
                              Done done) {
  const std::lock_guard lock(mutex_);
  absl::Status status = stream_->CopyToHost(host, device, bytes);
  return status.ok() ? stream_->Then(std::move(done)) : status;
}

absl::Status Transfer::Zero(std::byte* device, std::size_t bytes, Done done) {
  const std::lock_guard lock(mutex_);
  absl::Status status;
  for (std::size_t at = 0; at < bytes && status.ok(); at += kZeroBytes) {
    status = stream_->CopyToDevice(device + at, zeros_.data(), std::min(kZeroBytes, bytes - at));
  }
  return status.ok() ? stream_->Then(std::move(done)) : status;
}

}  // namespace sage::server
