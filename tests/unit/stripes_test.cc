// How a large request is cut into stripes.
#include "client/internal/stripes.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sage::internal {
namespace {

using ::testing::ElementsAre;

// Tensors are never read here: any addresses do.
AttendRequest Request(std::int64_t batch, std::int64_t heads_q, std::int64_t heads_kv,
                      std::int64_t seqlen, Layout layout = Layout::kHnd) {
  AttendRequest request;
  AttentionProblem& problem = request.problem;
  problem.batch = batch;
  problem.num_heads_q = heads_q;
  problem.num_heads_kv = heads_kv;
  problem.seqlen_q = problem.seqlen_k = seqlen;
  problem.head_dim = 128;
  problem.layout = layout;
  problem.return_lse = true;
  request.q = reinterpret_cast<const void*>(std::uintptr_t{1} << 40);
  request.k = reinterpret_cast<const void*>(std::uintptr_t{2} << 40);
  request.v = reinterpret_cast<const void*>(std::uintptr_t{3} << 40);
  request.out = reinterpret_cast<void*>(std::uintptr_t{4} << 40);
  request.lse = reinterpret_cast<float*>(std::uintptr_t{5} << 40);
  return request;
}

// "BxHqxHkv" of each stripe.
std::vector<std::string> Shapes(const AttendRequest& request, int connections) {
  std::vector<std::string> shapes;
  for (const Stripe& stripe : PlanStripes(request, connections)) {
    const AttentionProblem& p = stripe.request.problem;
    shapes.push_back(absl::StrCat(p.batch, "x", p.num_heads_q, "x", p.num_heads_kv));
    EXPECT_EQ(stripe.heads.q, request.problem.num_heads_q);
    EXPECT_EQ(stripe.heads.kv, request.problem.num_heads_kv);
  }
  return shapes;
}

std::int64_t Distance(const void* from, const void* to) {
  return static_cast<const std::byte*>(to) - static_cast<const std::byte*>(from);
}

TEST(StripesTest, CutBatchEntriesThenHeadsThenGroups) {
  // 2 MiB a tensor and head.
  EXPECT_THAT(Shapes(Request(1, 32, 32, 8192), 4), ElementsAre("1x8x8", "1x8x8", "1x8x8", "1x8x8"));
  EXPECT_THAT(Shapes(Request(2, 32, 8, 8192), 4),
              ElementsAre("1x16x4", "1x16x4", "1x16x4", "1x16x4"));
  EXPECT_THAT(Shapes(Request(5, 8, 8, 8192), 4), ElementsAre("1x8x8", "1x8x8", "1x8x8", "2x8x8"));
  EXPECT_THAT(Shapes(Request(1, 24, 3, 8192), 4), ElementsAre("1x8x1", "1x8x1", "1x8x1"));
  EXPECT_THAT(Shapes(Request(1, 64, 1, 8192), 4),
              ElementsAre("1x16x1", "1x16x1", "1x16x1", "1x16x1"));
}

// Only what travels counts, and only that is pointed to.
TEST(StripesTest, ResidentTensorsStayWhole) {
  AttendRequest request = Request(2, 32, 8, 8192);  // q 128 MiB, k and v 64
  const auto* const there = reinterpret_cast<const RemoteTensor*>(std::uintptr_t{1});
  request.k = request.v = nullptr;
  request.resident.k = request.resident.v = there;
  const std::vector<Stripe> stripes = PlanStripes(request, 4);
  ASSERT_EQ(stripes.size(), 4U);
  const Stripe& last = stripes.back();
  EXPECT_EQ(last.request.k, nullptr);
  EXPECT_EQ(last.request.resident.k, there);
  EXPECT_EQ(Distance(request.q, last.request.q), (32 + 16) * 8192 * 256);
  ASSERT_TRUE(last.begin.has_value());
  EXPECT_EQ(last.begin->batch, 1);
  EXPECT_EQ(last.begin->q_head, 16);
  EXPECT_EQ(last.begin->kv_head, 4);

  // Keys that do not travel are not sent again.
  request = Request(1, 16, 1, 8192);
  request.k = request.v = nullptr;
  request.resident.k = request.resident.v = there;
  EXPECT_THAT(Shapes(request, 4), ElementsAre("1x4x1", "1x4x1", "1x4x1", "1x4x1"));
  // Answers travel, or nothing does.
  request.q = nullptr;
  request.resident.q = there;
  EXPECT_THAT(Shapes(request, 2), ElementsAre("1x8x1", "1x8x1"));
  request.out = nullptr;
  request.resident.out = there;
  EXPECT_THAT(Shapes(request, 2), ElementsAre("1x16x1"));
}

TEST(StripesTest, SmallRequestsAndSingleConnectionsStayWhole) {
  EXPECT_THAT(Shapes(Request(1, 32, 32, 8192), 1), ElementsAre("1x32x32"));
  EXPECT_THAT(Shapes(Request(1, 4, 4, 2048), 4), ElementsAre("1x4x4"));
  EXPECT_THAT(Shapes(Request(1, 4, 4, 8192), 4), ElementsAre("1x1x1", "1x1x1", "1x2x2"));  // 24 MiB
}

TEST(StripesTest, KeysAreSentAgainOnlyWhereThatIsCheap) {
  // q 4 MiB, k and v 4 MiB together: no.
  AttendRequest request = Request(1, 2, 1, 8192);
  request.problem.seqlen_k = 65536;  // q 4 MiB, k and v 32
  EXPECT_THAT(Shapes(request, 4), ElementsAre("1x2x1"));
  // q 32 MiB, k and v 4: twice more is 8 of 36.
  EXPECT_THAT(Shapes(Request(1, 16, 1, 8192), 8), ElementsAre("1x5x1", "1x5x1", "1x6x1"));
}

TEST(StripesTest, PointIntoTheCallersMemory) {
  for (const Layout layout : {Layout::kHnd, Layout::kNhd}) {
    const AttendRequest whole = Request(2, 32, 8, 8192, layout);
    const Stripe last = PlanStripes(whole, 4).back();  // batch entry 1, KV heads 4 to 7
    const std::int64_t head = layout == Layout::kHnd ? 8192 * 256 : 256;
    EXPECT_EQ(Distance(whole.q, last.request.q), 32 * 8192 * 256 + 16 * head);
    EXPECT_EQ(Distance(whole.k, last.request.k), 8 * 8192 * 256 + 4 * head);
    EXPECT_EQ(Distance(whole.v, last.request.v), 8 * 8192 * 256 + 4 * head);
    EXPECT_EQ(Distance(whole.out, last.request.out), 32 * 8192 * 256 + 16 * head);
    EXPECT_EQ(last.request.lse - whole.lse, (32 + 16) * 8192);
  }
  AttendRequest floats = Request(4, 8, 8, 8192);
  floats.float32_inputs = true;
  EXPECT_EQ(Distance(floats.q, PlanStripes(floats, 4)[1].request.q), 8 * 8192 * 512);
}

TEST(StripesTest, WhatWasQuantisedElsewhereKeepsItsScales) {
  for (const Layout layout : {Layout::kHnd, Layout::kNhd}) {
    AttendRequest whole = Request(2, 32, 8, 8192, layout);
    std::vector<float> any(1);
    whole.q_scales = {.scales = any.data(), .dot_smoothing = any.data()};
    whole.k_scales = {.scales = any.data(), .smoothing = any.data()};
    const Stripe last = PlanStripes(whole, 4).back();  // batch entry 1, KV heads 4 to 7
    const std::int64_t head = layout == Layout::kHnd ? 8192 * 128 : 128;
    EXPECT_EQ(Distance(whole.q, last.request.q), 32 * 8192 * 128 + 16 * head);
    EXPECT_EQ(Distance(whole.k, last.request.k), 8 * 8192 * 128 + 4 * head);
    EXPECT_EQ(Distance(any.data(), last.request.q_scales.scales), (32 + 16) * 8192 * 4);
    EXPECT_EQ(Distance(any.data(), last.request.q_scales.dot_smoothing), (32 + 16) * 8192 * 4);
    EXPECT_EQ(Distance(any.data(), last.request.k_scales.scales), (8 + 4) * 128 * 4);
    EXPECT_EQ(Distance(any.data(), last.request.k_scales.smoothing), (8 + 4) * 128 * 4);
  }
}

TEST(StripesTest, TakeTheirPartOfMasksAndLengths) {
  AttendRequest request = Request(4, 8, 8, 2048);  // 48 MiB
  request.problem.seqlens_k = {1, 2, 3, 4};
  std::vector<std::uint8_t> dense(4 * 8 * 16 * 32);
  for (std::size_t i = 0; i < dense.size(); ++i) dense[i] = i / (8 * 16 * 32) % 2;
  const auto mask = BlockMask::FromDense(request.problem, 4, 8, dense);
  ASSERT_TRUE(mask.ok());
  request.mask = &*mask;
  const std::vector<Stripe> stripes = PlanStripes(request, 4);
  ASSERT_EQ(stripes.size(), 4U);
  for (std::int64_t i = 0; i < 4; ++i) {
    EXPECT_THAT(stripes[i].request.problem.seqlens_k, ElementsAre(i + 1));
    const BlockMask& part = *std::get<const BlockMask*>(stripes[i].request.mask);
    EXPECT_EQ(part.batch(), 1);
    EXPECT_EQ(part.heads(), 8);
    EXPECT_THAT(part.ToDense(), ::testing::Each(i % 2));
  }
  const auto shared =
      BlockMask::FromDense(request.problem, 1, 1, std::vector<std::uint8_t>(16 * 32, 1));
  request.mask = &*shared;
  EXPECT_EQ(std::get<const BlockMask*>(PlanStripes(request, 4)[2].request.mask), &*shared);
}

TEST(StripesTest, WhatIsQuantisedHereLiesInOneStretch) {
  AttendRequest request = Request(2, 32, 32, 8192, Layout::kNhd);
  request.prequantize = true;
  EXPECT_THAT(Shapes(request, 4), ElementsAre("1x32x32", "1x32x32"));
}

}  // namespace
}  // namespace sage::internal
