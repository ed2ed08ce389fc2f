#include "kernels/cpu/bounded_allocator.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"

namespace sage {
namespace {

constexpr std::size_t RoundUp(std::size_t bytes) {
  constexpr std::size_t kMask = BoundedAllocator::kAlignment - 1;
  return (std::max<std::size_t>(bytes, 1) + kMask) & ~kMask;
}

}  // namespace

absl::StatusOr<std::byte*> BoundedAllocator::Allocate(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > limit_bytes_ || RoundUp(bytes) > limit_bytes_ - in_use_bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot allocate ", bytes,
                                                     " bytes: ", in_use_bytes_, " of ",
                                                     limit_bytes_, " bytes are in use"));
  }
  void* const data = std::aligned_alloc(kAlignment, RoundUp(bytes));
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("cannot allocate ", bytes, " bytes: the system has no memory left"));
  }
  in_use_bytes_ += RoundUp(bytes);
  return static_cast<std::byte*>(data);
}

void BoundedAllocator::Free(std::byte* data, std::size_t bytes) {
  std::free(data);
  const std::lock_guard lock(mutex_);
  in_use_bytes_ -= RoundUp(bytes);
}

}  // namespace sage
