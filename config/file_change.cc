#include "config/file_change.h"

#include <chrono>

namespace sage {
namespace {

using Clock = std::chrono::system_clock;

// File systems keep times by the kernel's tick, which is up to 10 ms.
constexpr std::chrono::milliseconds kClockTick{50};

bool Same(const struct stat& a, const struct stat& b) {
  return a.st_ino == b.st_ino && a.st_dev == b.st_dev && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

Clock::time_point ModifiedAt(const struct stat& file) {
  return Clock::time_point(std::chrono::duration_cast<Clock::duration>(
      std::chrono::seconds(file.st_mtim.tv_sec) + std::chrono::nanoseconds(file.st_mtim.tv_nsec)));
}

}  // namespace

bool FileChange::Poll() {
  struct stat now {};
  if (stat(path_.c_str(), &now) != 0) now = {};
  const bool changed = !settled_ || !Same(now, seen_);
  // Two changes within a tick look the same.
  settled_ = Clock::now() - ModifiedAt(now) > kClockTick;
  seen_ = now;
  return changed;
}

}  // namespace sage
