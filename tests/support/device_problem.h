// A whole attention problem in a backend's memory, cut into tasks as a test wants them.
#ifndef SAGE_TESTS_SUPPORT_DEVICE_PROBLEM_H_
#define SAGE_TESTS_SUPPORT_DEVICE_PROBLEM_H_

#include <cstdint>
#include <vector>

#include "kernels/attention.h"
#include "kernels/backend.h"
#include "kernels/block_mask.h"
#include "tests/support/problem_generator.h"

namespace sage::testing {

// Which operands go to the device as `sage1` int8 made on the host.
struct Prequantized {
  bool q = false;
  bool k = false;
};

// Failures of the backend end the program: tests have no use for what would follow.
class DeviceProblem {
 public:
  // Copies the tensors and the mask to device memory, and poison to all that the backend writes.
  DeviceProblem(Backend& backend, Stream& stream, const AttentionProblem& problem,
                const ProblemData& data, BlockMask mask, Prequantized prequantized = {});

  // Issues the preparation of K and V of every batch entry.
  void Prepare(Stream& stream) const;

  // One task for each batch entry and range of `tiles` query tiles; 0: all tiles.
  std::vector<AttendTask> Tasks(std::int64_t tiles = 0) const;

  // Copies the output and lse of tasks cut so back, and waits for the stream.
  PoisonedOutput Download(Stream& stream, std::int64_t tiles = 0) const;

 private:
  const AttentionProblem problem_;
  const BlockMask mask_;
  const Prequantized prequantized_;
  Memory q_, k_, v_, mask_bits_, out_, lse_;
  Memory q_scales_, q_dots_, k_scales_, smoothing_;  // of what is prequantized
  std::vector<KvTask> kv_tasks_;                     // by batch entry
  std::vector<Memory> prepared_;                     // likewise
};

// Prepares, attends all tasks in one call, and downloads.
PoisonedOutput RunProblem(Backend& backend, const AttentionProblem& problem,
                          const ProblemData& data, const BlockMask& mask = {},
                          std::int64_t tiles_per_task = 0, Prequantized prequantized = {});

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_DEVICE_PROBLEM_H_
