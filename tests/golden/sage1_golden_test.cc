// The host's `sage1` against vectors from the independent numpy script, bit for bit.

#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quantize.h"
#include "tests/golden/npy_reader.h"

namespace sage::golden {
namespace {

// NaN of any sign and payload is one value to the specification; all other numbers are their bits.
std::vector<std::uint32_t> Bits(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) {
    bits.push_back(value == value ? std::bit_cast<std::uint32_t>(value) : 0x7fc00000U);
  }
  return bits;
}

// Bytes and numbers that no result has, so that what is not written shows.
constexpr std::int8_t kPoisonInt8 = -128;
constexpr float kPoison = -1.0F;

class Sage1Golden : public ::testing::Test {
 protected:
  void SetUp() override {
    auto arrays = ReadNpz("tests/golden/data/sage1.npz");
    ASSERT_TRUE(arrays.ok()) << arrays.status();
    arrays_ = *std::move(arrays);
    for (const auto& [name, array] : arrays_) {
      if (name.ends_with("/x")) cases_.push_back(name.substr(0, name.size() - 2));
    }
    ASSERT_EQ(cases_.size(), 33U);
  }

  HeadView View(const std::string& name) const {
    const NpyArray& x = arrays_.at(name + "/x");
    const DType dtype = x.descr == "<f2"   ? DType::kFloat16
                        : x.descr == "<u2" ? DType::kBFloat16
                                           : DType::kFloat32;
    return {.data = x.bytes.data(),
            .dtype = dtype,
            .rows = x.shape[0],
            .row_stride = x.shape[1],
            .head_dim = x.shape[1]};
  }

  template <typename T>
  std::vector<T> Golden(const std::string& name, const std::string& array) const {
    return arrays_.at(name + "/" + array).As<T>();
  }

  std::map<std::string, NpyArray> arrays_;
  std::vector<std::string> cases_;
};

TEST_F(Sage1Golden, SmoothingVectorsAreEqual) {
  for (const std::string& name : cases_) {
    const HeadView x = View(name);
    std::vector<float> c(x.head_dim, kPoison);
    ComputeSmoothing(x, c.data());
    EXPECT_EQ(Bits(c), Bits(Golden<float>(name, "c"))) << name;
  }
}

TEST_F(Sage1Golden, KeysAreEqual) {
  for (const std::string& name : cases_) {
    const HeadView x = View(name);
    const std::vector<float> c = Golden<float>(name, "c");
    std::vector<std::int8_t> k8(x.rows * x.head_dim, kPoisonInt8);
    std::vector<float> scales(CeilDiv(x.rows, kBlockN), kPoison);
    QuantizeKeys(x, c.data(), k8.data(), scales.data());
    EXPECT_EQ(k8, Golden<std::int8_t>(name, "k8")) << name;
    EXPECT_EQ(Bits(scales), Bits(Golden<float>(name, "k_scale"))) << name;
  }
}

TEST_F(Sage1Golden, QueriesAreEqual) {
  for (const std::string& name : cases_) {
    const HeadView x = View(name);
    std::vector<std::int8_t> q8(x.rows * x.head_dim, kPoisonInt8);
    std::vector<float> scales(x.rows, kPoison);
    QuantizeQueries(x, q8.data(), scales.data());
    EXPECT_EQ(q8, Golden<std::int8_t>(name, "q8")) << name;
    EXPECT_EQ(Bits(scales), Bits(Golden<float>(name, "q_scale"))) << name;
  }
}

TEST_F(Sage1Golden, QueryDotSmoothingIsEqual) {
  for (const std::string& name : cases_) {
    const HeadView x = View(name);
    const std::vector<float> c = Golden<float>(name, "c");
    std::vector<float> dot(x.rows, kPoison);
    QueryDotSmoothing(x, c.data(), dot.data());
    EXPECT_EQ(Bits(dot), Bits(Golden<float>(name, "dot"))) << name;
  }
}

}  // namespace
}  // namespace sage::golden
