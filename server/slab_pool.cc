#include "server/slab_pool.h"

#include <algorithm>
#include <bit>

namespace sage::server {
namespace {

constexpr std::uint64_t kSmallestSlab = 16 << 10;

}  // namespace

void Slab::Reset() {
  if (pool_ != nullptr) pool_->Return(std::move(memory_));
  pool_ = nullptr;
}

std::uint64_t SlabPool::RoundUp(std::uint64_t bytes) {
  if (bytes == 0) return 0;
  bytes = std::max(bytes, kSmallestSlab);
  const std::uint64_t step = std::bit_floor(bytes) / 4;
  return (bytes + step - 1) / step * step;
}

absl::StatusOr<Slab> SlabPool::Acquire(std::uint64_t bytes) {
  const std::uint64_t size = RoundUp(bytes);
  if (size == 0) return Slab();
  std::vector<Memory> evicted;
  {
    const std::lock_guard lock(mutex_);
    in_use_bytes_ += size;
    if (const auto found = cached_.find(size); found != cached_.end()) {
      Memory memory = std::move(found->second.back().memory);
      found->second.pop_back();
      if (found->second.empty()) cached_.erase(found);
      cached_bytes_ -= size;
      return Slab(this, std::move(memory));
    }
    while (cached_bytes_ > 0 && in_use_bytes_ + cached_bytes_ > limit_bytes_) {
      const auto largest = std::prev(cached_.end());
      evicted.push_back(TakeToFree(largest->first, largest->second));
      if (largest->second.empty()) cached_.erase(largest);
    }
  }
  Free(std::move(evicted));
  {
    // What others still free is not there for the backend yet.
    std::unique_lock lock(mutex_);
    freed_.wait(lock, [this] {
      return freeing_bytes_ == 0 || in_use_bytes_ + cached_bytes_ + freeing_bytes_ <= limit_bytes_;
    });
  }
  absl::StatusOr<Memory> memory = backend_.Allocate(kind_, size);
  if (!memory.ok()) {
    const std::lock_guard lock(mutex_);
    in_use_bytes_ -= size;
    return memory.status();
  }
  return Slab(this, *std::move(memory));
}

void SlabPool::FreeUnwanted(Clock::time_point now) {
  std::vector<Memory> unwanted;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [size, kept] : cached_) {
      while (!kept.empty() && now - kept.front().since > kPatience) {
        unwanted.push_back(TakeToFree(size, kept));
      }
    }
    std::erase_if(cached_, [](const auto& entry) { return entry.second.empty(); });
  }
  Free(std::move(unwanted));
}

Memory SlabPool::TakeToFree(std::uint64_t size, std::deque<Kept>& kept) {
  Memory memory = std::move(kept.front().memory);
  kept.pop_front();
  cached_bytes_ -= size;
  freeing_bytes_ += size;
  return memory;
}

void SlabPool::Free(std::vector<Memory> memory) {
  std::uint64_t bytes = 0;
  for (const Memory& one : memory) bytes += one.size();
  memory.clear();
  {
    const std::lock_guard lock(mutex_);
    freeing_bytes_ -= bytes;
  }
  freed_.notify_all();
}

void SlabPool::Return(Memory memory) {
  const Clock::time_point now = Clock::now();
  const std::lock_guard lock(mutex_);
  const std::uint64_t size = memory.size();
  in_use_bytes_ -= size;
  cached_bytes_ += size;
  cached_[size].push_back({std::move(memory), now});
}

std::uint64_t SlabPool::in_use_bytes() const {
  const std::lock_guard lock(mutex_);
  return in_use_bytes_;
}

std::uint64_t SlabPool::cached_bytes() const {
  const std::lock_guard lock(mutex_);
  return cached_bytes_ + freeing_bytes_;
}

}  // namespace sage::server
