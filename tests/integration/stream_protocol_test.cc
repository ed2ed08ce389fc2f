// Streams as ordinary stubs may write them: any field order, any chunk size, any pace within the
// window, many at once.
#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "google/protobuf/unknown_field_set.h"
#include "gtest/gtest.h"
#include "proto/wire/crc32c.h"
#include "tests/support/plain_client.h"
#include "tests/support/server_fixture.h"

namespace sage::testing {
namespace {

// The same message with its fields in reverse order on the wire, after one of an unknown number.
template <typename Message>
Message Reversed(const Message& message) {
  google::protobuf::UnknownFieldSet fields;
  EXPECT_TRUE(fields.ParseFromString(message.SerializeAsString()));
  Message reversed;
  google::protobuf::UnknownFieldSet& unknown =
      *reversed.GetReflection()->MutableUnknownFields(&reversed);
  unknown.AddLengthDelimited(1000, "from the future");
  for (int i = fields.field_count(); i > 0; --i) unknown.AddField(fields.field(i - 1));
  return reversed;
}

class StreamProtocol : public ServerFixture {
 protected:
  void Start(const server::ServerOptions& options = TestServerOptions()) {
    StartServer(options);
    stub_ = v1::Attention::NewStub(NewChannel());
  }

  // Sends all that the window allows before each read.
  ::testing::AssertionResult StreamsRightlyWritingFirst(const Sample& sample,
                                                        std::size_t chunk_bytes) {
    PlainStream stream(*stub_, sample);
    if (!stream.Open()) return stream.FinishesRightly();
    const std::vector<v1::AttendStreamRequest> messages =
        PayloadMessages(sample, stream.accepted(), chunk_bytes);
    std::vector<std::uint64_t> payload(stream.accepted().units_size(), 0);
    for (const auto& message : messages) payload[message.chunk().unit()] += message.data().size();
    const std::uint64_t largest = *std::max_element(payload.begin(), payload.end());
    if (stream.accepted().window_bytes() < largest) {
      return ::testing::AssertionFailure() << "the window is smaller than a unit";
    }
    const auto answered = [&] {
      std::uint64_t bytes = 0;
      for (std::uint32_t unit = 0; unit < payload.size(); ++unit) {
        if (stream.UnitIsComplete(unit)) bytes += payload[unit];
      }
      return bytes;
    };
    std::uint64_t sent = 0;
    for (const auto& message : messages) {
      while (sent - answered() + message.data().size() > stream.accepted().window_bytes()) {
        if (!stream.Receive()) return stream.FinishesRightly();
      }
      if (!stream.Send(message)) return stream.FinishesRightly();
      sent += message.data().size();
    }
    return stream.FinishesRightly();
  }

  std::unique_ptr<v1::Attention::Stub> stub_;
};

AttentionProblem Problem(std::int64_t batch, std::int64_t heads_q, std::int64_t heads_kv,
                         std::int64_t seqlen_q, std::int64_t seqlen_k, std::int64_t head_dim) {
  AttentionProblem problem;
  problem.batch = batch;
  problem.num_heads_q = heads_q;
  problem.num_heads_kv = heads_kv;
  problem.seqlen_q = seqlen_q;
  problem.seqlen_k = seqlen_k;
  problem.head_dim = head_dim;
  problem.return_lse = true;
  return problem;
}

// Odd lengths in both layouts, grouped heads, all types and precisions.
std::vector<AttentionProblem> OddProblems() {
  std::vector<AttentionProblem> problems;
  for (const std::int64_t seqlen : {1, 63, 64, 65, 127, 128, 129, 1000}) {
    problems.push_back(Problem(1, 2, 2, seqlen, seqlen, 64));
    AttentionProblem& grouped = problems.emplace_back(Problem(2, 4, 1, seqlen, 129, 128));
    grouped.dtype = grouped.output_dtype = DType::kBFloat16;
    grouped.layout = Layout::kNhd;
    AttentionProblem& causal = problems.emplace_back(Problem(2, 4, 2, 129, seqlen, 40));
    causal.is_causal = true;  // rows that see nothing, where keys are fewer than queries
    causal.layout = Layout::kNhd;
    causal.precision = Precision::kFp16;
    causal.output_dtype = DType::kFloat32;
  }
  return problems;
}

constexpr std::uint64_t kOddSeed = 10;

// Made once: the oracle takes longer than all else here.
const std::vector<Sample>& OddSamples() {
  static const std::vector<Sample> samples = [] {
    std::vector<Sample> made;
    for (const AttentionProblem& problem : OddProblems()) {
      made.push_back(MakeSample(problem, kOddSeed));
    }
    return made;
  }();
  return samples;
}

TEST_F(StreamProtocol, AnyFieldOrderAndUnknownFields) {
  Start();
  const Sample sample = MakeSample(SmallProblem(), 1);
  PlainStream stream(*stub_, sample);
  v1::AttendHeader header = HeaderFor(sample.problem);
  *header.mutable_shape() = Reversed(header.shape());
  ASSERT_TRUE(stream.Open(Reversed(header)));
  for (auto message : PayloadMessages(sample, stream.accepted(), 1000)) {
    *message.mutable_chunk() = Reversed(message.chunk());
    const v1::AttendStreamRequest reversed = Reversed(message);
    // data, field 15, now comes before chunk, field 2.
    ASSERT_EQ(reversed.GetReflection()->GetUnknownFields(reversed).field(1).number(), 15);
    ASSERT_TRUE(stream.Send(reversed));
  }
  EXPECT_TRUE(stream.FinishesRightly());
}

TEST_F(StreamProtocol, OddProblemsInOneUnit) {
  Start();
  for (const Sample& sample : OddSamples()) {
    SCOPED_TRACE(Describe(sample.problem, kOddSeed));
    EXPECT_TRUE(StreamsRightly(*stub_, sample));
    EXPECT_TRUE(AttendsRightly(*stub_, sample));
  }
}

TEST_F(StreamProtocol, OddProblemsInTinyUnitsAndWindows) {
  server::ServerOptions options = TestServerOptions();
  options.window_bytes = 1;
  options.unit_bytes = 1;
  Start(options);
  for (const Sample& sample : OddSamples()) {
    SCOPED_TRACE(Describe(sample.problem, kOddSeed));
    EXPECT_TRUE(StreamsRightlyWritingFirst(sample, 10000));
    EXPECT_TRUE(StreamsRightly(*stub_, sample, 777));
    EXPECT_TRUE(AttendsRightly(*stub_, sample));
  }
}

TEST_F(StreamProtocol, WritesAllWithinTheWindowBeforeReading) {
  Start();
  AttentionProblem problem = Problem(1, 16, 16, 2048, 65, 128);
  problem.output_dtype = DType::kFloat32;
  const Sample sample = MakeSample(problem, 3);  // 9 MB of payload, 17 of output
  PlainStream stream(*stub_, sample);
  ASSERT_TRUE(stream.Open());
  ASSERT_GE(stream.accepted().window_bytes(), sample.payload_bytes());
  for (const auto& message : PayloadMessages(sample, stream.accepted(), 1 << 18)) {
    ASSERT_TRUE(stream.Send(message));
  }
  EXPECT_TRUE(stream.FinishesRightly());
}

TEST_F(StreamProtocol, OneByteChunks) {
  Start();
  const Sample tiny = MakeSample(Problem(1, 2, 1, 5, 3, 16), 4);
  EXPECT_TRUE(StreamsRightly(*stub_, tiny, 1));
  EXPECT_TRUE(StreamsRightlyWritingFirst(tiny, 1));
  EXPECT_TRUE(StreamsRightly(*stub_, MakeSample(SmallProblem(), 5), 13));
}

TEST_F(StreamProtocol, ChecksumsAreAnsweredWithChecksums) {
  Start();
  const Sample sample = MakeSample(SmallProblem(), 6);
  const auto checksum = [](const std::string& data) {
    return ExtendCrc32c(0, data.data(), data.size());
  };
  grpc::ClientContext context;
  const auto stream = stub_->AttendStream(&context);
  v1::AttendStreamRequest header;
  *header.mutable_header() = HeaderFor(sample.problem);
  v1::AttendStreamResponse response;
  ASSERT_TRUE(stream->Write(header) && stream->Read(&response));
  for (auto& message : PayloadMessages(sample, response.accepted(), 10000)) {
    message.mutable_chunk()->set_crc32c(checksum(message.data()));
    ASSERT_TRUE(stream->Write(message));
  }
  int chunks = 0;
  for (; stream->Read(&response) && response.has_chunk(); ++chunks) {
    EXPECT_TRUE(response.chunk().has_crc32c());
    EXPECT_EQ(response.chunk().crc32c(), checksum(response.data()));
  }
  EXPECT_EQ(chunks, 2);  // output and lse
  EXPECT_TRUE(response.has_trailer());
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(StreamProtocol, ManyStreamsOfDifferentShapesAtOnce) {
  Start();
  constexpr int kStreams = 32;
  std::vector<Sample> samples;
  for (int i = 0; i < kStreams; ++i) {
    AttentionProblem problem =
        Problem(1 + i % 2, 4, 1 + i % 4 == 3 ? 1 : 2, 1 + 37 * i, 500 - 15 * i, 8 * (1 + i % 16));
    problem.layout = i % 2 == 0 ? Layout::kHnd : Layout::kNhd;
    problem.dtype = i % 3 == 0 ? DType::kBFloat16 : DType::kFloat16;
    problem.is_causal = i % 5 == 0;
    samples.push_back(MakeSample(problem, 100 + i));
  }
  std::vector<std::unique_ptr<v1::Attention::Stub>> stubs;
  for (int i = 0; i < 4; ++i) stubs.push_back(v1::Attention::NewStub(NewChannel()));
  std::vector<::testing::AssertionResult> results(kStreams, ::testing::AssertionFailure());
  std::vector<std::thread> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.emplace_back([&, i] {
      results[i] = StreamsRightly(*stubs[i % stubs.size()], samples[i], 1000 + 997 * i);
    });
  }
  for (std::thread& client : clients) client.join();
  for (int i = 0; i < kStreams; ++i) {
    EXPECT_TRUE(results[i]) << Describe(samples[i].problem, 100 + i);
  }
}

}  // namespace
}  // namespace sage::testing
