#include "kernels/cuda/kernel.h"

#include <algorithm>
#include <array>

namespace sage::cuda {

cudaError_t Launch(const Kernel& kernel, const WorkTable& table, cudaStream_t stream) {
  WorkTable argument = table;
  std::array<void*, 1> arguments = {&argument};
  const unsigned grid = std::min(table.num_items, static_cast<std::uint32_t>(kernel.grid_limit));
  return cudaLaunchKernel(kernel.function, dim3(grid), dim3(kernel.threads), arguments.data(),
                          kernel.smem_bytes, stream);
}

}  // namespace sage::cuda
