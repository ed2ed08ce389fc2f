// The CUDA backend for tests that need a GPU.
#ifndef SAGE_TESTS_SUPPORT_CUDA_DEVICE_H_
#define SAGE_TESTS_SUPPORT_CUDA_DEVICE_H_

#include <cstdlib>
#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/cuda/cuda_backend.h"

namespace sage::testing {

// The kernels that SAGE_CUDA_PATH in the environment names, "sm80" or "sm80_compact"; else the
// device's own.
inline CudaKernelPath KernelPathOfEnvironment() {
  const char* const value = std::getenv("SAGE_CUDA_PATH");
  const std::string_view path = value == nullptr ? "" : value;
  if (path == "sm80") return CudaKernelPath::kSm80;
  if (path == "sm80_compact") return CudaKernelPath::kSm80Compact;
  return CudaKernelPath::kAuto;
}

// A fixture on the first CUDA device, through the kernels of KernelPathOfEnvironment(). Where there
// is no device, its tests are skipped and say why.
template <typename Base = ::testing::Test>
class CudaFixture : public Base {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> backend =
        CreateCudaBackend({.kernel_path = KernelPathOfEnvironment()});
    if (!backend.ok()) GTEST_SKIP() << "no usable CUDA device: " << backend.status();
    backend_ = *std::move(backend);
  }

  std::unique_ptr<Backend> backend_;
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_CUDA_DEVICE_H_
