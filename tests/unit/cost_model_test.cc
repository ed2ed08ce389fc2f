#include "server/cost_model.h"

#include <random>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/calibration.h"

namespace sage::server {
namespace {

constexpr std::size_t kKernel = DeviceWork::kOperations;

DeviceWork Launch(double operations) {
  DeviceWork work;
  work[DeviceWork::kLaunches] = 1;
  work[kKernel] = operations;
  return work;
}

class CostModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    CostModel::Rates rates = {};
    rates[DeviceWork::kLaunches] = 1e-4;
    rates[kKernel] = 1e-9;
    model_.Calibrate(rates);
  }

  CostModel model_;
};

TEST_F(CostModelTest, AddsUpWhatWorkAsksFor) {
  EXPECT_DOUBLE_EQ(model_.Seconds(Launch(0)), 1e-4);
  EXPECT_DOUBLE_EQ(model_.Seconds(Launch(1e9)), 1.0001);
  EXPECT_EQ(CostModel().Seconds(Launch(1e9)), 0);
}

TEST_F(CostModelTest, LearnsWhatLaunchesAndOperationsTake) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 1000; ++i) {
    const double operations = random() % 2 == 0 ? 1e3 : 1e8;
    model_.Observe(Launch(operations), 5e-5 + 3e-9 * operations);
  }
  EXPECT_NEAR(model_.Seconds(Launch(0)), 5e-5, 5e-6);
  EXPECT_NEAR(model_.Seconds(Launch(1e9)), 3, 0.03);
}

TEST_F(CostModelTest, SmallLaunchesDoNotChangeWhatOperationsCost) {
  for (int i = 0; i < 1000; ++i) model_.Observe(Launch(1e3), 1e-3);
  EXPECT_NEAR(model_.Seconds(Launch(1e3)), 1e-3, 1e-5);
  EXPECT_NEAR(model_.Seconds(Launch(1e9)), 1, 0.03);
}

TEST_F(CostModelTest, OneSlowLaunchChangesLittle) {
  model_.Observe(Launch(1e8), 1000);
  EXPECT_LT(model_.Seconds(Launch(1e8)), 0.2);
}

TEST_F(CostModelTest, ForgetsASlowTime) {
  const auto now = CostModel::Clock::now();
  const auto slow = now - CostModel::kMemory - std::chrono::seconds(1);
  for (int i = 0; i < 100; ++i) model_.Observe(Launch(1e8), 1, slow);
  EXPECT_NEAR(model_.Seconds(Launch(1e8)), 0.1, 0.001);
  model_.Observe(Launch(1e8), 1, now);
  EXPECT_LT(model_.Seconds(Launch(1e8)), 0.2);
}

TEST(MeasureRatesTest, FindsARateForEveryKernel) {
  const auto backend = *CreateCpuBackend({.num_threads = 1});
  const auto rates = MeasureRates(*backend, 1e6);
  ASSERT_TRUE(rates.ok()) << rates.status();
  for (std::size_t i = 0; i < rates->size(); ++i) {
    if (i == DeviceWork::kBytesCopied) {
      EXPECT_EQ((*rates)[i], 0) << "memory is unified";
    } else {
      EXPECT_GT((*rates)[i], 0) << i;
    }
  }
}

}  // namespace
}  // namespace sage::server
