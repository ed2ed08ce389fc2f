// Work spread over the machine's cores.
#ifndef SAGE_CLIENT_CLI_PARALLEL_FOR_H_
#define SAGE_CLIENT_CLI_PARALLEL_FOR_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace sage::cli {

// Calls work(i) for i in [0, count), each once, on as many threads as there are cores; returns when
// all are done. `work` must not throw.
template <typename Work>
void ParallelFor(std::int64_t count, Work work) {
  std::atomic<std::int64_t> next{0};
  const auto run = [&] {
    for (std::int64_t i; (i = next.fetch_add(1)) < count;) work(i);
  };
  const auto cores = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::int64_t i = 1; i < std::min(cores, count); ++i) threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_PARALLEL_FOR_H_
