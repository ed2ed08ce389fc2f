// Blocks of k and v that no query reads stay at the client: the same bits back, for fewer bytes.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/used_blocks.h"
#include "tests/support/discrete_backend.h"
#include "tests/support/forwarding_backend.h"
#include "tests/support/plain_client.h"
#include "tests/support/problem_generator.h"
#include "tests/support/server_fixture.h"

namespace sage::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kUnusedBlocksSeed = 20261125;

// Fills `rows` rows of every head from `first` on with bytes that are NaN in either dtype, and as
// int8 no quantised value.
void Poison(const ConstHeads& heads, std::int64_t num_heads, std::int64_t first, std::int64_t rows,
            std::int64_t head_dim, std::int64_t element_bytes) {
  auto* const data = static_cast<std::byte*>(const_cast<void*>(heads.data));
  for (std::int64_t h = 0; h < num_heads; ++h) {
    for (std::int64_t row = first; row < first + rows; ++row) {
      std::memset(data + (h * heads.head_stride + row * heads.row_stride) * element_bytes, 0xff,
                  head_dim * element_bytes);
    }
  }
}

// Puts NaN into what the kernels must not read, just before they could.
class PoisoningStream final : public ForwardingStream {
 public:
  PoisoningStream(std::unique_ptr<Stream> device, std::atomic<int>& poisoned)
      : ForwardingStream(std::move(device)), poisoned_(poisoned) {}

  absl::Status PrepareKv(const KvTask& task, void* prepared) override {
    if (task.used_blocks == nullptr) return ForwardingStream::PrepareKv(task, prepared);
    absl::Status status = Then([task, this](const absl::Status&) {
      const MayLeaveOut may = UnusedMayBeLeftOut(task.precision, task.k_scales.has_value());
      for (std::int64_t n = 0; n * kBlockN < task.length_k; ++n) {
        if (((task.used_blocks[n / 8] >> (n % 8)) & 1) != 0) continue;
        const std::int64_t rows = std::min(kBlockN, task.length_k - n * kBlockN);
        if (may.k) {
          Poison(task.k, task.num_heads, n * kBlockN, rows, task.head_dim,
                 task.k_scales.has_value() ? 1 : 2);
        }
        if (may.v) Poison(task.v, task.num_heads, n * kBlockN, rows, task.head_dim, 2);
        ++poisoned_;
      }
    });
    if (!status.ok()) return status;
    return ForwardingStream::PrepareKv(task, prepared);
  }

 private:
  std::atomic<int>& poisoned_;
};

class PoisoningBackend final : public ForwardingBackend {
 public:
  PoisoningBackend(std::unique_ptr<Backend> device, std::atomic<int>& poisoned)
      : ForwardingBackend(std::move(device)), poisoned_(poisoned) {}

 private:
  std::unique_ptr<Stream> Wrap(std::unique_ptr<Stream> stream) override {
    return std::make_unique<PoisoningStream>(std::move(stream), poisoned_);
  }

  std::atomic<int>& poisoned_;
};

// A problem, and a mask that leaves whole columns of blocks out.
struct Case {
  AttentionProblem problem;
  RequestMask mask;
  BlockMask packed;  // the same mask, or that of `mask` where it is packed
};

class UnusedBlocksTest : public ServerFixture {
 protected:
  // Every option drawn from `random`.
  static std::unique_ptr<Case> RandomCase(std::mt19937_64& random) {
    constexpr std::int64_t kLengths[] = {1, 63, 129, 300, 450};  // within one message
    constexpr std::int64_t kHeadDims[] = {8, 64, 72, 128};
    auto drawn = std::make_unique<Case>();
    AttentionProblem& problem = drawn->problem;
    problem.batch = 1 + random() % 2;
    problem.num_heads_kv = 1 + random() % 3;
    problem.num_heads_q = problem.num_heads_kv * (1 + random() % 2);
    problem.seqlen_q = kLengths[random() % 5];
    problem.seqlen_k = kLengths[2 + random() % 3];
    problem.head_dim = kHeadDims[random() % 4];
    problem.dtype = problem.output_dtype = random() % 2 == 0 ? DType::kFloat16 : DType::kBFloat16;
    problem.layout = random() % 2 == 0 ? Layout::kHnd : Layout::kNhd;
    constexpr Precision kPrecisions[] = {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8,
                                         Precision::kFp16};
    problem.precision = kPrecisions[random() % 3];
    problem.is_causal = random() % 2 == 0;
    problem.return_lse = random() % 2 == 0;
    const bool with_lengths = random() % 3 == 0;
    for (std::int64_t b = 0; with_lengths && b < problem.batch; ++b) {
      problem.seqlens_q.push_back(random() % (problem.seqlen_q + 1));
      problem.seqlens_k.push_back(random() % (problem.seqlen_k + 1));
    }
    switch (random() % 4) {
      case 0:
        break;  // causality and lengths alone
      case 1: {
        const MaskPattern pattern = SlidingWindowPattern{1, 0};
        drawn->packed = *BlockMask::FromPattern(problem, pattern);
        drawn->mask = pattern;
        break;
      }
      default: {
        const std::int64_t batch = random() % 2 == 0 ? 1 : problem.batch;
        const std::int64_t heads = random() % 2 == 0 ? 1 : problem.num_heads_q;
        std::vector<std::uint8_t> dense = RandomDenseMask(problem, batch, heads, 0.4, random());
        for (std::int64_t n = 0; n < problem.blocks_k(); ++n) {
          if (random() % 2 == 0) continue;  // an empty column, for all heads
          for (std::size_t at = n; at < dense.size(); at += problem.blocks_k()) dense[at] = 0;
        }
        drawn->packed = *BlockMask::FromDense(problem, batch, heads, dense);
        drawn->mask = &drawn->packed;
      }
    }
    return drawn;
  }

  struct Answer {
    PoisonedOutput output;
    AttendReport report;
  };
  Answer Attend(Client& client, const Case& drawn, const ProblemData& data, bool prequantize) {
    Answer answer{PoisonedOutput(drawn.problem), {}};
    AttendRequest request;
    request.problem = drawn.problem;
    request.mask = drawn.mask;
    request.q = data.q.data();
    request.k = data.k.data();
    request.v = data.v.data();
    request.prequantize = prequantize;
    request.out = answer.output.out.data();
    if (drawn.problem.return_lse) request.lse = answer.output.lse.data();
    const absl::StatusOr<AttendReport> report = client.Attend(request);
    EXPECT_TRUE(report.ok()) << report.status();
    if (report.ok()) answer.report = *report;
    return answer;
  }

  // Answers of streams, which leave blocks out, are those of messages, which do not.
  void CheckRandomCases(std::uint64_t first_seed, int count = 60) {
    const auto streaming =
        *Client::Connect({.target = target(), .inline_limit_bytes = 0, .connections = 1});
    const auto whole = *Client::Connect({.target = target(), .inline_limit_bytes = 3 << 20});
    std::uint64_t saved_bytes = 0;
    for (std::uint64_t seed = first_seed; seed < first_seed + count; ++seed) {
      std::mt19937_64 random(seed);
      const std::unique_ptr<Case> drawn = RandomCase(random);
      const AttentionProblem& problem = drawn->problem;
      const bool prequantize = problem.precision != Precision::kFp16 && random() % 2 == 0;
      SCOPED_TRACE(Describe(problem, seed));
      const ProblemData data = MakeData(problem, DataKind::kKeyOffset, seed);
      const Answer want = Attend(*whole, *drawn, data, prequantize);
      const Answer got = Attend(*streaming, *drawn, data, prequantize);
      EXPECT_EQ(got.output.out, want.output.out);
      EXPECT_EQ(std::memcmp(got.output.lse.data(), want.output.lse.data(),
                            got.output.lse.size() * sizeof(float)),
                0);
      EXPECT_EQ(want.report.bytes_in,
                (data.q.size() + data.k.size()) / (prequantize ? 2 : 1) + data.v.size());
      EXPECT_LE(got.report.bytes_in, want.report.bytes_in);
      saved_bytes += want.report.bytes_in - got.report.bytes_in;
    }
    EXPECT_GT(saved_bytes, count * std::uint64_t{10000});
  }

  std::atomic<int> poisoned_ = 0;
};

TEST_F(UnusedBlocksTest, AreNeitherSentNorRead) {
  StartServer(TestServerOptions(), std::make_unique<PoisoningBackend>(TestBackend(), poisoned_));
  CheckRandomCases(kUnusedBlocksSeed);
  EXPECT_GT(poisoned_, 0);
}

TEST_F(UnusedBlocksTest, ManySmallUnitsHaveTheSameBits) {
  server::ServerOptions options = TestServerOptions();
  options.unit_bytes = 1;
  options.window_bytes = 1;
  StartServer(options, std::make_unique<PoisoningBackend>(TestBackend(), poisoned_));
  CheckRandomCases(kUnusedBlocksSeed + 100);
}

TEST_F(UnusedBlocksTest, ADeviceWithItsOwnMemoryIsToldWhatIsThere) {
  StartServer(TestServerOptions(),
              std::make_unique<DiscreteBackend>(
                  std::make_unique<PoisoningBackend>(TestBackend(), poisoned_)));
  CheckRandomCases(kUnusedBlocksSeed + 200, 15);
  EXPECT_GT(poisoned_, 0);
}

// Every byte that could be saved is, and the server's counters say so.
TEST_F(UnusedBlocksTest, ASlidingWindowSendsItsKeysOnly) {
  StartServer();
  Case drawn;
  AttentionProblem& problem = drawn.problem;
  problem.batch = 2;
  problem.num_heads_kv = 2;
  problem.num_heads_q = 4;
  problem.seqlen_q = 128;
  problem.seqlen_k = 2050;  // the queries are the last 128 tokens; the last block has two rows
  problem.head_dim = 64;
  problem.is_causal = true;
  drawn.mask = SlidingWindowPattern{3, 0};  // s = 30: blocks 27 to 32
  const auto client = *Client::Connect({.target = target(), .inline_limit_bytes = 0});
  for (const Layout layout : {Layout::kHnd, Layout::kNhd}) {
    problem.layout = layout;
    const ProblemData data = MakeData(problem, DataKind::kNormal, kUnusedBlocksSeed);
    const std::uint64_t used = data.k.size() / 2050 * (2050 - 27 * 64);
    for (const auto& [precision, prequantize, bytes] :
         {std::tuple(Precision::kFp16, false, data.q.size() + 2 * used),
          std::tuple(Precision::kQkInt8PvFp16, false, data.q.size() + data.k.size() + used),
          std::tuple(Precision::kQkInt8PvFp16, true, data.q.size() / 2 + used / 2 + used),
          std::tuple(Precision::kQkInt8PvFp8, true,
                     data.q.size() / 2 + used / 2 + data.v.size())}) {
      problem.precision = precision;
      const std::uint64_t before = client->GetStatistics()->payload_bytes_in();
      EXPECT_EQ(Attend(*client, drawn, data, prequantize).report.bytes_in, bytes);
      EXPECT_EQ(client->GetStatistics()->payload_bytes_in() - before, bytes);
    }
  }
}

// By ordinary stubs, from the formula of attention.proto. One head, so that rows are bytes in
// order.
class PlainUnusedBlocksTest : public UnusedBlocksTest {
 protected:
  PlainUnusedBlocksTest() : sample_(MakeSample(Problem(), kUnusedBlocksSeed)) {}

  static AttentionProblem Problem() {
    AttentionProblem problem = SmallProblem();
    problem.num_heads_q = problem.num_heads_kv = 1;
    problem.seqlen_q = 1;
    problem.seqlen_k = 200;
    problem.precision = Precision::kFp16;
    problem.seqlens_k = {70};  // blocks 0 and 1 travel, 2 and 3 do not
    return problem;
  }
  v1::AttendHeader Header() const {
    v1::AttendHeader header = HeaderFor(sample_.problem);
    header.add_seqlens_k(70);
    header.set_omit_unused_kv(true);
    return header;
  }
  v1::AttendStreamRequest Message(v1::TensorRole role, const std::vector<std::byte>& data,
                                  std::size_t size, std::size_t offset = 0) const {
    v1::AttendStreamRequest message;
    message.mutable_chunk()->set_tensor(role);
    message.mutable_chunk()->set_offset(offset);
    message.set_data(data.data() + offset, size);
    return message;
  }

  static constexpr std::size_t kUsedBytes = std::size_t{128} * 64 * 2;
  const Sample sample_;
};

TEST_F(PlainUnusedBlocksTest, OrdinaryStubsCanLeaveThemOut) {
  StartServer();
  const auto stub = v1::Attention::NewStub(NewChannel());
  PlainStream stream(*stub, sample_);
  ASSERT_TRUE(stream.Open(Header()));
  EXPECT_TRUE(stream.accepted().omits_unused_kv());
  const auto& [q, k, v] = sample_.data;
  stream.Send(Message(v1::TENSOR_ROLE_Q, q, q.size()));
  stream.Send(Message(v1::TENSOR_ROLE_K, k, 1000));
  stream.Send(Message(v1::TENSOR_ROLE_K, k, kUsedBytes - 1000, 1000));
  stream.Send(Message(v1::TENSOR_ROLE_V, v, kUsedBytes));
  stream.HalfClose();
  EXPECT_TRUE(stream.FinishesRightly());
  ASSERT_TRUE(stream.trailer().has_value());
  EXPECT_EQ(stream.trailer()->bytes_in(), q.size() + 2 * kUsedBytes);
}

TEST_F(PlainUnusedBlocksTest, NobodyHasTo) {
  StartServer();
  const auto stub = v1::Attention::NewStub(NewChannel());
  PlainStream stream(*stub, sample_);
  v1::AttendHeader header = Header();
  header.clear_omit_unused_kv();
  ASSERT_TRUE(stream.Open(header));
  EXPECT_FALSE(stream.accepted().omits_unused_kv());
  for (const auto& message : PayloadMessages(sample_, stream.accepted(), 1 << 20)) {
    stream.Send(message);
  }
  stream.HalfClose();
  EXPECT_TRUE(stream.FinishesRightly());
}

TEST_F(PlainUnusedBlocksTest, AnyOtherNumberOfBytesIsRefused) {
  StartServer();
  const auto stub = v1::Attention::NewStub(NewChannel());
  const auto& [q, k, v] = sample_.data;
  const v1::AttendStreamRequest whole_q = Message(v1::TENSOR_ROLE_Q, q, q.size());
  const struct {
    std::vector<v1::AttendStreamRequest> messages;
    std::string message;
  } kCases[] = {
      {{whole_q, Message(v1::TENSOR_ROLE_K, k, k.size())},
       "data: got 25600 bytes of k of unit 0 at offset 0, allowed at most 16384"},
      {{whole_q, Message(v1::TENSOR_ROLE_K, k, kUsedBytes - 1),
        Message(v1::TENSOR_ROLE_V, v, kUsedBytes)},
       "next is k of unit 0 at offset 16383"},
      {{whole_q, Message(v1::TENSOR_ROLE_K, k, kUsedBytes),
        Message(v1::TENSOR_ROLE_K, k, 1, kUsedBytes)},
       "next is v of unit 0 at offset 0"},
      {{whole_q, Message(v1::TENSOR_ROLE_K, k, kUsedBytes)},
       "data: the stream ended after 16512 of 32896 bytes"},
  };
  for (const auto& test : kCases) {
    PlainStream stream(*stub, sample_);
    ASSERT_TRUE(stream.Open(Header()));
    for (const v1::AttendStreamRequest& message : test.messages) stream.Send(message);
    stream.HalfClose();
    const grpc::Status status = stream.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr(test.message));
  }
}

TEST_F(PlainUnusedBlocksTest, AreLeftOutOfStreamsOnly) {
  StartServer();
  const auto stub = v1::Attention::NewStub(NewChannel());
  v1::AttendRequest request = UnaryRequest(sample_);
  request.mutable_header()->set_omit_unused_kv(true);
  grpc::ClientContext context;
  v1::AttendResponse response;
  const grpc::Status status = stub->Attend(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(),
              HasSubstr("header.omit_unused_kv: allowed with AttendStream only"));
}

}  // namespace
}  // namespace sage::testing
