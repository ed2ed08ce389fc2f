// q and k that travel as `sage1` int8: the same bits back, for fewer bytes.
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "client/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/float16.h"
#include "kernels/quantize_tensor.h"
#include "tests/support/discrete_backend.h"
#include "tests/support/plain_client.h"
#include "tests/support/problem_generator.h"
#include "tests/support/server_fixture.h"
#include "tests/support/tries.h"

namespace sage::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kSeed = 20261123;

class PrequantizedTest : public ServerFixture {
 protected:
  void StartClient(std::size_t inline_limit_bytes) {
    auto client = Client::Connect({.target = target(), .inline_limit_bytes = inline_limit_bytes});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  // Every option drawn from `random`.
  static AttentionProblem RandomProblem(std::mt19937_64& random) {
    constexpr std::int64_t kLengths[] = {1, 63, 129, 300, 1000};
    constexpr std::int64_t kHeadDims[] = {8, 64, 72, 128};
    AttentionProblem problem;
    problem.batch = 1 + random() % 2;
    problem.num_heads_kv = 1 + random() % 3;
    problem.num_heads_q = problem.num_heads_kv * (1 + random() % 2);
    problem.seqlen_q = kLengths[random() % 5];
    problem.seqlen_k = kLengths[random() % 5];
    problem.head_dim = kHeadDims[random() % 4];
    problem.dtype = random() % 2 == 0 ? DType::kFloat16 : DType::kBFloat16;
    problem.output_dtype = random() % 2 == 0 ? problem.dtype : DType::kFloat32;
    problem.layout = random() % 2 == 0 ? Layout::kHnd : Layout::kNhd;
    problem.precision = random() % 2 == 0 ? Precision::kQkInt8PvFp16 : Precision::kQkInt8PvFp8;
    problem.is_causal = random() % 2 == 0;
    problem.return_lse = random() % 2 == 0;
    for (std::int64_t b = 0; random() % 2 == 0 && b < problem.batch; ++b) {
      problem.seqlens_k.push_back(random() % (problem.seqlen_k + 1));
    }
    problem.seqlens_k.resize(problem.seqlens_k.empty() ? 0 : problem.batch, problem.seqlen_k);
    return problem;
  }

  struct Answer {
    PoisonedOutput output;
    AttendReport report;
  };
  Answer Attend(const AttentionProblem& problem, const ProblemData& data, bool prequantize,
                bool float32_inputs = false) {
    Answer answer{PoisonedOutput(problem), {}};
    AttendRequest request;
    request.problem = problem;
    request.q = data.q.data();
    request.k = data.k.data();
    request.v = data.v.data();
    request.float32_inputs = float32_inputs;
    request.prequantize = prequantize;
    request.out = answer.output.out.data();
    if (problem.return_lse) request.lse = answer.output.lse.data();
    const absl::StatusOr<AttendReport> report = client_->Attend(request);
    EXPECT_TRUE(report.ok()) << report.status();
    if (report.ok()) answer.report = *report;
    return answer;
  }

  static bool SameBits(const PoisonedOutput& a, const PoisonedOutput& b) {
    return a.out == b.out &&
           std::memcmp(a.lse.data(), b.lse.data(), a.lse.size() * sizeof(float)) == 0;
  }

  void CheckRandomProblems(std::uint64_t first_seed) {
    for (std::uint64_t seed = first_seed; seed < first_seed + Tries(40); ++seed) {
      std::mt19937_64 random(seed);
      const AttentionProblem problem = RandomProblem(random);
      SCOPED_TRACE(Describe(problem, seed));
      const ProblemData data = MakeData(problem, DataKind::kKeyOffset, seed);
      const Answer plain = Attend(problem, data, false);
      const Answer quantized = Attend(problem, data, true);
      EXPECT_TRUE(SameBits(plain.output, quantized.output));
      if (!problem.seqlens_k.empty()) continue;  // blocks past the lengths may stay at the client
      EXPECT_EQ(plain.report.bytes_in, data.q.size() + data.k.size() + data.v.size());
      EXPECT_EQ(quantized.report.bytes_in, data.q.size() / 2 + data.k.size() / 2 + data.v.size());
    }
  }

  std::unique_ptr<Client> client_;
};

TEST_F(PrequantizedTest, StreamedAnswersHaveTheSameBits) {
  StartServer();
  StartClient(0);
  CheckRandomProblems(kSeed);
}

TEST_F(PrequantizedTest, InlineAnswersHaveTheSameBits) {
  StartServer();
  StartClient(5 << 19);
  CheckRandomProblems(kSeed + 100);
}

TEST_F(PrequantizedTest, ManySmallUnitsHaveTheSameBits) {
  server::ServerOptions options = TestServerOptions();
  options.unit_bytes = 1;
  options.window_bytes = 1;
  StartServer(options);
  StartClient(0);
  CheckRandomProblems(kSeed + 200);
}

// A device with memory of its own gets the scales with the elements.
TEST_F(PrequantizedTest, ScalesAreCopiedToTheDevice) {
  StartServer(TestServerOptions(), std::make_unique<DiscreteBackend>(TestBackend()));
  StartClient(0);
  CheckRandomProblems(kSeed + 300);
}

// Any of q and k, by message and by stream.
TEST_F(PrequantizedTest, WhatWasQuantisedElsewhereIsTaken) {
  StartServer();
  const auto streaming = *Client::Connect({.target = target(), .inline_limit_bytes = 0});
  const auto inlined = *Client::Connect({.target = target()});
  for (std::uint64_t seed = kSeed + 400; seed < kSeed + 400 + Tries(40); ++seed) {
    std::mt19937_64 random(seed);
    const AttentionProblem problem = RandomProblem(random);
    SCOPED_TRACE(Describe(problem, seed));
    const ProblemData data = MakeData(problem, DataKind::kKeyOffset, seed);
    const std::vector<float> smoothing = ComputeSmoothing(problem, data.k.data());
    const QuantizedTensor k8 = QuantizeKeys(problem, data.k.data(), smoothing);
    const QuantizedTensor q8 = QuantizeQueries(problem, data.q.data());
    const std::vector<float> dots = QueryDotSmoothing(problem, data.q.data(), smoothing);
    client_ = *Client::Connect({.target = target()});
    const Answer want = Attend(problem, data, false);
    AttendRequest request;
    request.problem = problem;
    request.q = data.q.data();
    request.k = data.k.data();
    request.v = data.v.data();
    const int which = 1 + static_cast<int>(random() % 3);
    if ((which & 1) != 0) {
      request.q = q8.values.data();
      request.q_scales = {.scales = q8.scales.data(),
                          .dot_smoothing = problem.return_lse ? dots.data() : nullptr};
    }
    if ((which & 2) != 0) {
      request.k = k8.values.data();
      request.k_scales = {.scales = k8.scales.data(), .smoothing = smoothing.data()};
    }
    for (Client* client : {streaming.get(), inlined.get()}) {
      PoisonedOutput output(problem);
      request.out = output.out.data();
      request.lse = problem.return_lse ? output.lse.data() : nullptr;
      const absl::StatusOr<AttendReport> report = client->Attend(request);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_TRUE(SameBits(output, want.output));
    }
  }
}

TEST_F(PrequantizedTest, HalfOfWhatMakesInt8WholeIsRefused) {
  StartServer();
  StartClient(0);
  const float some = 0;
  const struct {
    std::function<void(AttendRequest*)> spoil;
    std::string message;
  } kCases[] = {
      {[&](AttendRequest* r) { r->q_scales.dot_smoothing = &some; }, "q_scales: scales is a null"},
      {[&](AttendRequest* r) { r->q_scales.scales = &some; }, "q_scales: k takes"},
      {[&](AttendRequest* r) { r->k_scales.scales = &some; }, "k_scales: k takes"},
      {[&](AttendRequest* r) {
         r->k_scales = {.scales = &some, .smoothing = &some, .dot_smoothing = &some};
       },
       "k_scales: k takes"},
      {[&](AttendRequest* r) {
         r->k_scales = {.scales = &some, .smoothing = &some};
         r->prequantize = true;
       },
       "k_scales: not with prequantize"},
      {[&](AttendRequest* r) {
         r->k_scales = {.scales = &some, .smoothing = &some};
         r->problem.precision = Precision::kFp16;
       },
       "k_scales: not with precision fp16"},
  };
  for (const auto& test : kCases) {
    AttendRequest request;
    request.problem = SmallProblem();  // with lse
    PoisonedOutput output(request.problem);
    request.q = request.k = request.v = request.out = output.out.data();
    request.lse = output.lse.data();
    test.spoil(&request);
    const auto refused = client_->Attend(request);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(test.message));
  }
}

TEST_F(PrequantizedTest, Float32InputsAreRoundedFirst) {
  StartServer();
  StartClient(0);
  std::mt19937_64 random(kSeed);
  AttentionProblem problem = SmallProblem();
  const ProblemData half = MakeData(problem, DataKind::kNormal, kSeed);
  ProblemData wide;
  for (const auto& [from, to] :
       {std::pair(&half.q, &wide.q), std::pair(&half.k, &wide.k), std::pair(&half.v, &wide.v)}) {
    to->resize(2 * from->size());
    for (std::size_t i = 0; i < from->size() / 2; ++i) {
      Float16 element;
      std::memcpy(&element, from->data() + 2 * i, 2);
      // Near enough to the element to be rounded to it.
      const float value = ToFloat(element) * (1 + 0x1p-14F);
      std::memcpy(to->data() + 4 * i, &value, 4);
    }
  }
  EXPECT_TRUE(SameBits(Attend(problem, half, true).output,
                       Attend(problem, wide, true, /*float32_inputs=*/true).output));

  const float too_large = 1e6F;
  std::memcpy(wide.k.data(), &too_large, sizeof(too_large));
  AttendRequest request;
  request.problem = problem;
  request.q = wide.q.data();
  request.k = wide.k.data();
  request.v = wide.v.data();
  request.float32_inputs = request.prequantize = true;
  PoisonedOutput output(problem);
  request.out = output.out.data();
  request.lse = output.lse.data();
  const auto refused = client_->Attend(request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("outside fp16's range"));
}

// What any client can send by ordinary stubs, one operand at a time.
TEST_F(PrequantizedTest, OrdinaryStubsMaySendEitherOperandAsInt8) {
  StartServer();
  const auto stub = v1::Attention::NewStub(NewChannel());
  const Sample sample = MakeSample(SmallProblem(), kSeed);
  const AttentionProblem& problem = sample.problem;
  const auto floats = [](const std::vector<float>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  };
  const auto bytes = [](const std::vector<std::int8_t>& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size());
  };
  const auto attend = [&](const v1::AttendRequest& request) {
    grpc::ClientContext context;
    v1::AttendResponse response;
    const grpc::Status status = stub->Attend(&context, request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  };
  const v1::AttendResponse want = attend(UnaryRequest(sample));
  const std::vector<float> smoothing = ComputeSmoothing(problem, sample.data.k.data());

  v1::AttendRequest request = UnaryRequest(sample);
  const QuantizedTensor k8 = QuantizeKeys(problem, sample.data.k.data(), smoothing);
  v1::QuantizedOperand& k = *request.mutable_header()->mutable_k()->mutable_quantized();
  k.set_scales(floats(k8.scales));
  k.set_smoothing(floats(smoothing));
  request.set_k(bytes(k8.values));
  v1::AttendResponse got = attend(request);
  EXPECT_EQ(got.out(), want.out());
  EXPECT_EQ(got.lse(), want.lse());

  request = UnaryRequest(sample);
  const QuantizedTensor q8 = QuantizeQueries(problem, sample.data.q.data());
  v1::QuantizedOperand& q = *request.mutable_header()->mutable_q()->mutable_quantized();
  q.set_scales(floats(q8.scales));
  q.set_dot_smoothing(floats(QueryDotSmoothing(problem, sample.data.q.data(), smoothing)));
  request.set_q(bytes(q8.values));
  got = attend(request);
  EXPECT_EQ(got.out(), want.out());
  EXPECT_EQ(got.lse(), want.lse());

  // 16-bit elements where int8 was announced.
  request.set_q(UnaryRequest(sample).q());
  grpc::ClientContext context;
  const grpc::Status refused = stub->Attend(&context, request, &got);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), HasSubstr("q: got"));
}

// Scales travel in the header, which has a limit.
TEST_F(PrequantizedTest, ScalesBeyondTheHeadersLimitAreRefused) {
  StartServer();
  const auto client = Client::Connect({.target = target(), .connections = 1});  // no stripes
  AttentionProblem problem;
  problem.batch = problem.num_heads_kv = 1;
  problem.num_heads_q = 64;
  problem.seqlen_q = 1 << 15;  // 2^21 rows: 8 MiB of scales
  problem.seqlen_k = 1;
  problem.head_dim = 8;
  const std::vector<std::byte> q(problem.q_elements() * 2);
  const std::vector<std::byte> kv(problem.kv_elements() * 2);
  std::vector<std::byte> out(q.size());
  AttendRequest request;
  request.problem = problem;
  request.q = q.data();
  request.k = request.v = kv.data();
  request.prequantize = true;
  request.out = out.data();
  const auto refused = (*client)->Attend(request);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted) << refused.status();
}

}  // namespace
}  // namespace sage::testing
