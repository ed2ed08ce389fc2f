#include "tests/support/device_fault.h"

namespace sage::testing {
namespace {

__global__ void WriteNowhere(int* nowhere) { *nowhere = 1; }

}  // namespace

cudaError_t LaunchDeviceFault(cudaStream_t stream) {
  WriteNowhere<<<1, 1, 0, stream>>>(nullptr);
  return cudaGetLastError();
}

}  // namespace sage::testing
