// The main job, end to end: attention through client, wire and server, held against the oracle.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/problem_generator.h"
#include "tests/support/server_fixture.h"

namespace sage::testing {
namespace {

struct Case {
  std::int64_t batch, heads_q, heads_kv, seqlen_q, seqlen_k, head_dim;
  DType dtype = DType::kFloat16;
  Layout layout = Layout::kHnd;
  Precision precision = Precision::kQkInt8PvFp16;
  bool causal = false;
  std::optional<double> density = std::nullopt;  // of a random mask
  bool mask_per_head = true;
  std::vector<std::int64_t> seqlens_q = {};
  std::vector<std::int64_t> seqlens_k = {};
};

AttentionProblem ProblemOf(const Case& c) {
  AttentionProblem problem;
  problem.batch = c.batch;
  problem.num_heads_q = c.heads_q;
  problem.num_heads_kv = c.heads_kv;
  problem.seqlen_q = c.seqlen_q;
  problem.seqlen_k = c.seqlen_k;
  problem.head_dim = c.head_dim;
  problem.dtype = problem.output_dtype = c.dtype;
  problem.layout = c.layout;
  problem.precision = c.precision;
  problem.is_causal = c.causal;
  problem.return_lse = true;
  problem.seqlens_q = c.seqlens_q;
  problem.seqlens_k = c.seqlens_k;
  return problem;
}

class ServedAttention : public ServerFixture {
 protected:
  void StartClient(std::size_t inline_limit_bytes) {
    auto client = Client::Connect({.target = target(), .inline_limit_bytes = inline_limit_bytes});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  // Serves `c` and holds the answer against the oracle.
  void Check(const Case& c, std::uint64_t seed, bool checksums = false) {
    const AttentionProblem problem = ProblemOf(c);
    SCOPED_TRACE(Describe(problem, seed));
    const ProblemData data = MakeData(problem, DataKind::kNormal, seed);
    std::vector<std::uint8_t> dense;
    BlockMask mask;
    AttendRequest request;
    std::int64_t mask_batch = 1;
    std::int64_t mask_heads = 1;
    if (c.density.has_value()) {
      mask_batch = c.mask_per_head ? c.batch : 1;
      mask_heads = c.mask_per_head ? c.heads_q : 1;
      dense = RandomDenseMask(problem, mask_batch, mask_heads, *c.density, seed + 1);
      ClearMaskRows(problem, 3, &dense);
      auto made = BlockMask::FromDense(problem, mask_batch, mask_heads, dense);
      ASSERT_TRUE(made.ok()) << made.status();
      mask = *std::move(made);
      request.mask = &mask;
    }
    PoisonedOutput output(problem);
    request.problem = problem;
    request.q = data.q.data();
    request.k = data.k.data();
    request.v = data.v.data();
    request.out = output.out.data();
    request.lse = output.lse.data();
    request.checksums = checksums;
    const absl::StatusOr<AttendReport> report = client_->Attend(request);
    ASSERT_TRUE(report.ok()) << report.status();

    const ReferenceResult reference = Reference(problem, data, dense, mask_batch, mask_heads);
    const Comparison comparison = Compare(problem, output, reference);
    EXPECT_LE(comparison.out.relative_l2, RelativeL2Limit(problem.precision, problem.dtype));
    EXPECT_LE(comparison.lse_error, LseLimit(problem.precision));
    EXPECT_TRUE(EmptyRowsAreExact(problem, output, reference));
    const double want_density = c.density.has_value() ? MaskDensity(problem, mask) : 1.0;
    if (!c.causal && c.seqlens_k.empty()) {
      EXPECT_NEAR(report->block_density, want_density, 1e-9);
    }
    // Streams leave out the keys and values that no query reads.
    EXPECT_LE(report->bytes_in, data.q.size() + data.k.size() + data.v.size());
  }

  std::unique_ptr<Client> client_;
};

std::vector<Case> Grid() {
  std::vector<Case> cases;
  for (const std::int64_t seqlen : {1, 63, 64, 65, 127, 128, 129, 1000}) {
    cases.push_back({1, 2, 2, seqlen, seqlen, 64});
    cases.push_back({2, 4, 1, seqlen, 129, 128, DType::kBFloat16, Layout::kNhd});
    cases.push_back({1, 8, 1, 129, seqlen, 64, DType::kFloat16, Layout::kNhd,
                     Precision::kQkInt8PvFp16, true, 0.5});
    cases.push_back(
        {1, 2, 1, 65, seqlen, 72, DType::kBFloat16, Layout::kHnd, Precision::kFp16, true});
    cases.push_back({2, 2, 2, seqlen, 65, 8, DType::kFloat16, Layout::kHnd, Precision::kQkInt8PvFp8,
                     false, 0.5, false});
  }
  cases.push_back({3,
                   4,
                   2,
                   300,
                   200,
                   64,
                   DType::kFloat16,
                   Layout::kHnd,
                   Precision::kQkInt8PvFp16,
                   true,
                   0.7,
                   true,
                   {300, 0, 129},
                   {0, 200, 65}});
  cases.push_back({3,
                   4,
                   2,
                   300,
                   200,
                   64,
                   DType::kFloat16,
                   Layout::kNhd,
                   Precision::kFp16,
                   false,
                   0.7,
                   false,
                   {1, 300, 128},
                   {64, 63, 200}});
  return cases;
}

TEST_F(ServedAttention, StreamedAnswersMatchTheOracle) {
  StartServer();
  StartClient(/*inline_limit_bytes=*/0);
  std::uint64_t seed = 100;
  for (const Case& c : Grid()) Check(c, ++seed);
}

TEST_F(ServedAttention, InlineAnswersMatchTheOracle) {
  StartServer();
  StartClient(/*inline_limit_bytes=*/5 << 19);
  std::uint64_t seed = 200;
  for (const Case& c : Grid()) Check(c, ++seed);
}

TEST_F(ServedAttention, ManySmallUnitsMatchTheOracle) {
  server::ServerOptions options = TestServerOptions();
  options.unit_bytes = 1;  // one KV head and 128 queries a unit
  options.window_bytes = 1;
  StartServer(options);
  StartClient(0);
  std::uint64_t seed = 300;
  for (const Case& c : Grid()) Check(c, ++seed);
}

// Each request runs on the device with the least reserved, so that requests at once use all of
// them.
TEST_F(ServedAttention, SeveralDevicesShareTheRequests) {
  StartServer(TestServerOptions(), TestBackends(3));
  StartClient(0);
  const auto info = client_->GetInfo();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->devices_size(), 3);
  std::vector<std::thread> threads;
  for (std::uint64_t i = 0; i < 6; ++i) {
    threads.emplace_back([this, i] {
      for (std::uint64_t round = 0; round < 5; ++round) {
        Check({1, 4, 2, 500, 300, 64, DType::kFloat16, Layout::kNhd, Precision::kQkInt8PvFp16, true,
               0.5},
              500 + 10 * i + round);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(ServedAttention, ChecksummedStreamsMatchTheOracle) {
  StartServer();
  StartClient(0);
  Check({1, 4, 2, 1000, 1000, 128}, 400, /*checksums=*/true);
}

TEST_F(ServedAttention, BitsDoNotDependOnTheCutIntoUnits) {
  const Case c{1,    4,  2, 1000, 500, 64, DType::kFloat16, Layout::kHnd, Precision::kQkInt8PvFp16,
               true, 0.6};
  const AttentionProblem problem = ProblemOf(c);
  const ProblemData data = MakeData(problem, DataKind::kNormal, 7);
  const auto mask = BlockMask::FromDense(problem, 1, 4, RandomDenseMask(problem, 1, 4, 0.6, 8));
  ASSERT_TRUE(mask.ok());
  const auto answer = [&](std::uint64_t unit_bytes) {
    server::ServerOptions options = TestServerOptions();
    options.unit_bytes = unit_bytes;
    auto server = server::Server::Start(options, TestBackends());
    EXPECT_TRUE(server.ok()) << server.status();
    auto client = Client::Connect(
        {.target = "127.0.0.1:" + std::to_string((*server)->port()), .inline_limit_bytes = 0});
    PoisonedOutput output(problem);
    AttendRequest request;
    request.problem = problem;
    request.q = data.q.data();
    request.k = data.k.data();
    request.v = data.v.data();
    request.mask = &*mask;
    request.out = output.out.data();
    request.lse = output.lse.data();
    EXPECT_TRUE((*client)->Attend(request).ok());
    return output;
  };
  const PoisonedOutput whole = answer(1 << 30);
  const PoisonedOutput cut = answer(1);
  EXPECT_EQ(whole.out, cut.out);
  EXPECT_EQ(whole.lse, cut.lse);
}

// Large enough to be striped over four connections.
TEST_F(ServedAttention, BitsDoNotDependOnStripes) {
  StartServer();
  struct StripedCase {
    Case c;
    bool prequantize = false;
    MaskPattern pattern = SlidingWindowPattern{.left_blocks = 2, .right_blocks = 0};
  };
  const Precision precision = Precision::kQkInt8PvFp16;
  const StripedCase cases[] = {
      {{1, 24, 24, 2048, 2048, 128, DType::kFloat16, Layout::kHnd, precision, false, 0.1}},
      {{1, 24, 24, 2048, 2048, 128, DType::kFloat16, Layout::kNhd, precision, true, 0.1}},
      {{1, 64, 1, 2048, 2048, 128, DType::kBFloat16, Layout::kNhd, precision, true}},
      {{2,
        16,
        8,
        2048,
        2048,
        128,
        DType::kFloat16,
        Layout::kHnd,
        precision,
        true,
        std::nullopt,
        true,
        {2000, 1},
        {1500, 2048}}},
      {{1, 24, 24, 2048, 2048, 128, DType::kFloat16, Layout::kHnd, precision, false, 0.1}, true},
  };
  const auto clients = [&] {
    std::vector<std::unique_ptr<Client>> made;
    for (const int connections : {1, 4}) {
      made.push_back(*Client::Connect({.target = target(), .connections = connections}));
    }
    return made;
  }();
  std::uint64_t seed = 20;
  for (const StripedCase& striped : cases) {
    const AttentionProblem problem = ProblemOf(striped.c);
    SCOPED_TRACE(Describe(problem, ++seed));
    const ProblemData data = MakeData(problem, DataKind::kNormal, seed);
    BlockMask mask;
    if (striped.c.density.has_value()) {
      mask = *BlockMask::FromDense(
          problem, 1, problem.num_heads_q,
          RandomDenseMask(problem, 1, problem.num_heads_q, *striped.c.density, seed));
    }
    std::vector<PoisonedOutput> outputs;
    std::vector<AttendReport> reports;
    for (const std::unique_ptr<Client>& client : clients) {
      PoisonedOutput& output = outputs.emplace_back(problem);
      std::int64_t last_done = 0, units = -1;
      AttendRequest request;
      request.problem = problem;
      request.q = data.q.data();
      request.k = data.k.data();
      request.v = data.v.data();
      if (striped.c.density.has_value()) {
        request.mask = &mask;
      } else {
        request.mask = striped.pattern;
      }
      request.prequantize = striped.prequantize;
      request.out = output.out.data();
      request.lse = output.lse.data();
      request.on_unit_done = [&](std::int64_t done, std::int64_t total) {
        EXPECT_GT(done, last_done);
        last_done = done;
        units = total;
      };
      const auto report = client->Attend(request);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(last_done, units);
      reports.push_back(*report);
    }
    EXPECT_TRUE(outputs[0].out == outputs[1].out);
    EXPECT_TRUE(outputs[0].lse == outputs[1].lse);
    EXPECT_EQ(reports[0].bytes_out, reports[1].bytes_out);
    EXPECT_DOUBLE_EQ(reports[0].block_density, reports[1].block_density);
    EXPECT_EQ(reports[0].server_id, reports[1].server_id);
  }
  EXPECT_EQ(clients.front()->GetStatistics()->requests_ok(), 5U * (1 + 4));
}

TEST_F(ServedAttention, AStripedRequestFailsAsOne) {
  server::ServerOptions options = TestServerOptions();
  options.max_connections = 1;
  StartServer(options);
  const auto client = Client::Connect({.target = target(), .connections = 4});
  const AttentionProblem problem =
      ProblemOf({1, 24, 24, 2048, 2048, 128, DType::kFloat16, Layout::kHnd});
  const ProblemData data = MakeData(problem, DataKind::kNormal, 9);
  PoisonedOutput output(problem);
  AttendRequest request;
  request.problem = problem;
  request.q = data.q.data();
  request.k = data.k.data();
  request.v = data.v.data();
  request.mask = SlidingWindowPattern{.left_blocks = 0, .right_blocks = 0};
  request.out = output.out.data();
  request.lse = output.lse.data();
  const absl::Status status = (*client)->Attend(request).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
}

}  // namespace
}  // namespace sage::testing
