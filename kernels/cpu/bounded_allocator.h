// Host memory under a limit.
#ifndef SAGE_KERNELS_CPU_BOUNDED_ALLOCATOR_H_
#define SAGE_KERNELS_CPU_BOUNDED_ALLOCATOR_H_

#include <cstddef>
#include <mutex>

#include "absl/status/statusor.h"

namespace sage {

// Thread-safe. Freed memory goes back to the C library: who wants to keep it does so itself.
class BoundedAllocator {
 public:
  static constexpr std::size_t kAlignment = 256;  // bytes; sizes are rounded up to it

  explicit BoundedAllocator(std::size_t limit_bytes) : limit_bytes_(limit_bytes) {}
  BoundedAllocator(const BoundedAllocator&) = delete;
  BoundedAllocator& operator=(const BoundedAllocator&) = delete;

  // RESOURCE_EXHAUSTED past the limit, or where the system has no memory. Contents are undefined.
  absl::StatusOr<std::byte*> Allocate(std::size_t bytes);
  // `bytes` as given to Allocate.
  void Free(std::byte* data, std::size_t bytes);

 private:
  const std::size_t limit_bytes_;
  std::mutex mutex_;
  std::size_t in_use_bytes_ = 0;  // guarded by mutex_
};

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_BOUNDED_ALLOCATOR_H_
