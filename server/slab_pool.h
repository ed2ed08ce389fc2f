// Slabs: memory of the backend that is allocated once and used again, request after request.
//
// First touch and pinning cost far more than the work done in a slab, so freed slabs are kept for a
// while. Sizes are rounded up to one of four steps a power of two, which wastes at most a quarter
// and lets requests of nearby sizes share slabs. How much may be in use is decided by admission
// (Admission); the pool bounds what it keeps beside that: before it allocates past its limit, it
// frees kept slabs, and those that nobody has wanted for some time go anyway. Without that,
// requests of mixed sizes would leave the most slabs of each size that were ever in use at once,
// which grows for hours.
#ifndef SAGE_SERVER_SLAB_POOL_H_
#define SAGE_SERVER_SLAB_POOL_H_

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace sage::server {

class SlabPool;

// Memory borrowed from a pool; goes back when destroyed. Move-only.
class Slab {
 public:
  Slab() = default;
  Slab(Slab&& other) noexcept { *this = std::move(other); }
  Slab& operator=(Slab&& other) noexcept {
    if (this != &other) {
      Reset();
      pool_ = std::exchange(other.pool_, nullptr);
      memory_ = std::move(other.memory_);
    }
    return *this;
  }
  ~Slab() { Reset(); }

  std::byte* data() const { return memory_.data(); }
  explicit operator bool() const { return static_cast<bool>(memory_); }
  void Reset();

 private:
  friend class SlabPool;
  Slab(SlabPool* pool, Memory memory) : pool_(pool), memory_(std::move(memory)) {}

  SlabPool* pool_ = nullptr;
  Memory memory_;
};

// Thread-safe; must outlive its slabs and be outlived by the backend.
class SlabPool {
 public:
  using Clock = std::chrono::steady_clock;

  // How long a slab is kept that nobody wants.
  static constexpr std::chrono::seconds kPatience{30};

  SlabPool(Backend& backend, MemoryKind kind, std::uint64_t limit_bytes)
      : backend_(backend), kind_(kind), limit_bytes_(limit_bytes) {}

  // What a slab for `bytes` takes from the limit; 0 for 0.
  static std::uint64_t RoundUp(std::uint64_t bytes);

  // At least `bytes` bytes (an empty slab for 0), contents undefined. Fails as Backend::Allocate
  // does.
  absl::StatusOr<Slab> Acquire(std::uint64_t bytes);

  // Frees slabs that have been kept for longer than kPatience. To be called now and then.
  void FreeUnwanted(Clock::time_point now = Clock::now());

  std::uint64_t in_use_bytes() const;
  std::uint64_t cached_bytes() const;  // until they are freed

 private:
  friend class Slab;
  struct Kept {
    Memory memory;
    Clock::time_point since;
  };

  void Return(Memory memory);
  // Takes one of `kept`, of slabs of `size`, out of those to use again; it counts as kept until
  // Free() has freed it. With mutex_ held.
  Memory TakeToFree(std::uint64_t size, std::deque<Kept>& kept);
  void Free(std::vector<Memory> memory);  // without mutex_, as this may take a while

  Backend& backend_;
  const MemoryKind kind_;
  const std::uint64_t limit_bytes_;

  mutable std::mutex mutex_;
  std::condition_variable freed_;
  // All guarded by mutex_.
  std::map<std::uint64_t, std::deque<Kept>> cached_;  // by size; the last one kept goes out first
  std::uint64_t cached_bytes_ = 0;
  std::uint64_t freeing_bytes_ = 0;  // of slabs that nobody gets any more but are not freed yet
  std::uint64_t in_use_bytes_ = 0;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_SLAB_POOL_H_
