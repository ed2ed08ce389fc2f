// Host memory under a limit, kept for reuse.
#ifndef SAGE_KERNELS_CPU_CACHING_ALLOCATOR_H_
#define SAGE_KERNELS_CPU_CACHING_ALLOCATOR_H_

#include <cstddef>
#include <map>
#include <mutex>

#include "absl/status/statusor.h"

namespace sage {

// Freed blocks are kept and handed out again for requests of the same size, since the first touch
// of fresh pages costs more than the work done on them. Blocks in use and blocks kept never exceed
// the limit together: kept ones give way first. Thread-safe.
class CachingAllocator {
 public:
  static constexpr std::size_t kAlignment = 256;  // bytes; sizes are rounded up to it

  explicit CachingAllocator(std::size_t limit_bytes) : limit_bytes_(limit_bytes) {}
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;
  // Everything allocated must have been freed.
  ~CachingAllocator();

  // RESOURCE_EXHAUSTED past the limit, or where the system has no memory. Contents are undefined.
  absl::StatusOr<std::byte*> Allocate(std::size_t bytes);
  // `bytes` as given to Allocate.
  void Free(std::byte* data, std::size_t bytes);

 private:
  void ReleaseCached();

  const std::size_t limit_bytes_;
  std::mutex mutex_;
  std::size_t in_use_bytes_ = 0;              // guarded by mutex_
  std::size_t cached_bytes_ = 0;              // guarded by mutex_
  std::multimap<std::size_t, void*> cached_;  // by rounded size; guarded by mutex_
};

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_CACHING_ALLOCATOR_H_
