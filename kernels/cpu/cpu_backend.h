// The CPU backend: attention on the host's cores, with the widest vectors that they have.
//
// Host and device memory are the same, copies are memcpy. Each stream has a thread that runs its
// work in order and shares attention and preparation with one pool. A tile of 128 query rows of one
// head is computed by one thread, in a fixed order, so that bits depend on its data alone.
#ifndef SAGE_KERNELS_CPU_CPU_BACKEND_H_
#define SAGE_KERNELS_CPU_CPU_BACKEND_H_

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace sage {

struct CpuBackendOptions {
  // Threads that one launch is spread over, the stream's own included. 0: one for each core that
  // this process may run on.
  int num_threads = 0;
  // Most that may be allocated, of both kinds together. 0: half of the machine's memory.
  std::size_t memory_limit_bytes = 0;
};

// INVALID_ARGUMENT for a negative number of threads or one above 1024.
absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const CpuBackendOptions& options);

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_CPU_BACKEND_H_
