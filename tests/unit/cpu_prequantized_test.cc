// The CPU backend with operands that come as `sage1` int8.
#include <cstdint>
#include <memory>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/support/tries.h"
#include "tests/unit/cpu_each_target.h"
#include "tests/unit/prequantized_check.h"

namespace sage {
namespace {

class CpuPrequantizedTest : public ::testing::Test {
 protected:
  const std::unique_ptr<Backend> backend_ = *CreateCpuBackend({.num_threads = 2});
};

TEST_F(CpuPrequantizedTest, GivesTheBitsOf16BitOperands) {
  for (std::uint64_t seed = 0; seed < testing::Tries(100); ++seed) {
    testing::CheckPrequantizedBits(*backend_, Precision::kQkInt8PvFp16, seed);
    testing::CheckPrequantizedBits(*backend_, Precision::kQkInt8PvFp8, seed);
  }
}

TEST_F(CpuPrequantizedTest, GivesTheBitsOf16BitOperandsWithEveryInstructionSet) {
  ForEachCpuTarget([&] {
    for (std::uint64_t seed = 100; seed < 100 + testing::Tries(10); ++seed) {
      testing::CheckPrequantizedBits(*backend_, Precision::kQkInt8PvFp16, seed);
    }
  });
}

TEST_F(CpuPrequantizedTest, RefusesWhatItCannotServe) {
  testing::CheckPrequantizedRefusals(*backend_);
}

}  // namespace
}  // namespace sage
