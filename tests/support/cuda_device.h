// The CUDA backend for tests that need a GPU.
#ifndef SAGE_TESTS_SUPPORT_CUDA_DEVICE_H_
#define SAGE_TESTS_SUPPORT_CUDA_DEVICE_H_

#include <cstdlib>
#include <memory>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace sage::testing {

// A fixture on the first CUDA device, through the kernels that run everywhere, or with
// SAGE_CUDA_COMPACT in the environment through their form for small shared memory. Where there is
// no device, its tests are skipped and say why.
template <typename Base = ::testing::Test>
class CudaFixture : public Base {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> backend =
        CreateCudaBackend({.kernel_path = std::getenv("SAGE_CUDA_COMPACT") == nullptr
                                              ? CudaKernelPath::kSm80
                                              : CudaKernelPath::kSm80Compact});
    if (!backend.ok()) GTEST_SKIP() << "no usable CUDA device: " << backend.status();
    backend_ = *std::move(backend);
  }

  std::unique_ptr<Backend> backend_;
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_CUDA_DEVICE_H_
