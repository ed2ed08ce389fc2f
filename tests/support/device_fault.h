// Breaks the CUDA context of this process, as an illegal access of a kernel does.
#ifndef SAGE_TESTS_SUPPORT_DEVICE_FAULT_H_
#define SAGE_TESTS_SUPPORT_DEVICE_FAULT_H_

#include <cuda_runtime_api.h>

namespace sage::testing {

// Queues a kernel that writes to an address that is not there. Everything queued after it fails.
cudaError_t LaunchDeviceFault(cudaStream_t stream);

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_DEVICE_FAULT_H_
