// The CUDA backend with operands that come as `sage1` int8.
#include <cstdint>

#include "gtest/gtest.h"
#include "tests/support/cuda_device.h"
#include "tests/unit/prequantized_check.h"

namespace sage {
namespace {

using CudaPrequantizedTest = testing::CudaFixture<>;

TEST_F(CudaPrequantizedTest, GivesTheBitsOf16BitOperands) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    testing::CheckPrequantizedBits(*backend_, Precision::kQkInt8PvFp16, seed);
    testing::CheckPrequantizedBits(*backend_, Precision::kQkInt8PvFp8, seed);
  }
}

TEST_F(CudaPrequantizedTest, RefusesWhatItCannotServe) {
  testing::CheckPrequantizedRefusals(*backend_);
}

}  // namespace
}  // namespace sage
