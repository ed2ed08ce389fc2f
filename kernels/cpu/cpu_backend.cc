#include "kernels/cpu/cpu_backend.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/attend_tile.h"
#include "kernels/cpu/bounded_allocator.h"
#include "kernels/cpu/cpu_stream.h"
#include "kernels/cpu/launch.h"
#include "kernels/cpu/prepared_kv.h"
#include "kernels/cpu/thread_pool.h"

namespace sage {
namespace {

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(CPU_COUNT(&set), 1);
  return static_cast<int>(std::max(std::thread::hardware_concurrency(), 1U));  // over 1024 cores
}

std::size_t HalfOfMemory() {
  return static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE) / 2;
}

std::string ProcessorName() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("model name")) {
      const std::size_t colon = line.find(": ");
      if (colon != std::string::npos) return line.substr(colon + 2);
    }
  }
  return "CPU";
}

class CpuBackend : public Backend {
 public:
  CpuBackend(int num_threads, std::size_t memory_limit_bytes)
      : info_{.name = "cpu",
              .device_name = ProcessorName(),
              .kernel_path = KernelPath(),
              .device_memory_bytes = static_cast<std::int64_t>(memory_limit_bytes),
              .unified_memory = true},
        allocator_(memory_limit_bytes),
        pool_(num_threads) {}

  const BackendInfo& info() const override { return info_; }

  absl::Status CheckSupported(const AttentionProblem& problem) const override {
    if (problem.head_dim % 8 != 0 || problem.head_dim > kMaxHeadDim) {
      return absl::UnimplementedError(absl::StrCat(
          "head_dim ", problem.head_dim, " on the CPU: only multiples of 8 up to ", kMaxHeadDim));
    }
    if (problem.dtype == DType::kFloat32) {
      return absl::UnimplementedError("dtype fp32 of q, k and v on the CPU: only fp16 and bf16");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Memory> Allocate(MemoryKind /*kind*/, std::size_t bytes) override {
    absl::StatusOr<std::byte*> data = allocator_.Allocate(bytes);
    if (!data.ok()) return data.status();
    return Memory(*data, bytes,
                  [this](std::byte* p, std::size_t size) { allocator_.Free(p, size); });
  }

  std::size_t PreparedKvBytes(const KvTask& task) const override {
    return PreparedKvLayout(task).bytes();
  }

  std::size_t AttendWorkspaceBytes(std::span<const AttendTask> /*tasks*/) const override {
    return AttendScratchBytes(pool_);
  }

  absl::StatusOr<std::unique_ptr<Stream>> CreateStream() override {
    return std::make_unique<CpuStream>(pool_);
  }

  absl::StatusOr<std::unique_ptr<Event>> CreateEvent() override {
    return std::make_unique<CpuEvent>();
  }

  absl::Status Health() const override { return absl::OkStatus(); }

 private:
  const BackendInfo info_;
  BoundedAllocator allocator_;
  ThreadPool pool_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuBackendOptions& options) {
  constexpr int kMaxThreads = 1024;
  if (options.num_threads < 0 || options.num_threads > kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat(
        "num_threads ", options.num_threads, ": need 0 for all cores, or up to ", kMaxThreads));
  }
  const int num_threads = options.num_threads == 0 ? UsableCores() : options.num_threads;
  const std::size_t limit =
      options.memory_limit_bytes == 0 ? HalfOfMemory() : options.memory_limit_bytes;
  return std::make_unique<CpuBackend>(num_threads, limit);
}

}  // namespace sage
