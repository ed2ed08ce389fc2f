#include "kernels/cpu/caching_allocator.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace sage {
namespace {

constexpr std::size_t RoundUp(std::size_t bytes) {
  constexpr std::size_t kMask = CachingAllocator::kAlignment - 1;
  return (std::max<std::size_t>(bytes, 1) + kMask) & ~kMask;
}

}  // namespace

CachingAllocator::~CachingAllocator() { ReleaseCached(); }

absl::StatusOr<std::byte*> CachingAllocator::Allocate(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > limit_bytes_ || RoundUp(bytes) > limit_bytes_ - in_use_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes,
                                                     " bytes: ", in_use_bytes_, " of ",
                                                     limit_bytes_, " bytes are in use"));
  }
  const std::size_t size = RoundUp(bytes);
  void* data = nullptr;
  if (const auto it = cached_.find(size); it != cached_.end()) {
    data = it->second;
    cached_.erase(it);
    cached_bytes_ -= size;
  } else {
    if (size > limit_bytes_ - in_use_bytes_ - cached_bytes_) ReleaseCached();
    data = std::aligned_alloc(kAlignment, size);
  }
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes: the system has no memory left"));
  }
  in_use_bytes_ += size;
  return static_cast<std::byte*>(data);
}

void CachingAllocator::Free(std::byte* data, std::size_t bytes) {
  const std::size_t size = RoundUp(bytes);
  const std::lock_guard lock(mutex_);
  cached_.emplace(size, data);
  in_use_bytes_ -= size;
  cached_bytes_ += size;
}

void CachingAllocator::ReleaseCached() {
  for (const auto& [size, data] : cached_) std::free(data);
  cached_.clear();
  cached_bytes_ = 0;
}

}  // namespace sage
