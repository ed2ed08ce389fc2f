// What does not fit: now, ever, or in time. Refused before any payload is read, with a hint where
// waiting helps.
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sage/v1/server.grpc.pb.h"
#include "tests/support/faulty_server_fixture.h"
#include "tests/support/plain_client.h"
#include "tests/support/wire_error.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

constexpr auto kNoDeadline = std::chrono::system_clock::time_point::max();

class CapacityErrors : public FaultyServerFixture {
 protected:
  void Start(const server::ServerOptions& options) {
    StartFaultyServer(options);
    stub_ = v1::Attention::NewStub(NewChannel());
  }

  grpc::Status Unary(const v1::AttendRequest& request) {
    grpc::ClientContext context;
    v1::AttendResponse response;
    return stub_->Attend(&context, request, &response);
  }

  // Both methods answer `sample` with the same error.
  void ExpectRefused(const Sample& sample, StatusCode code,
                     const ::testing::Matcher<std::string>& message, Details details) {
    EXPECT_TRUE(IsError(Unary(UnaryRequest(sample)), code, message, details));
    PlainStream stream(*stub_, sample);
    EXPECT_FALSE(stream.Open());
    EXPECT_TRUE(IsError(stream.Finish(), code, message, details));
  }

  // While a stream of `sample_` is open, others meet `message`; afterwards they are served.
  void ExpectFullWhileOneRuns(const char* message) {
    PlainStream first(*stub_, sample_);
    ASSERT_TRUE(first.Open());
    ExpectRefused(sample_, StatusCode::RESOURCE_EXHAUSTED, MatchesRegex(message),
                  Details::kQuotaAndRetry);
    for (const auto& chunk : PayloadMessages(sample_, first.accepted(), 1 << 20)) {
      ASSERT_TRUE(first.Send(chunk));
    }
    EXPECT_TRUE(first.FinishesRightly());
    EXPECT_EQ(AwaitIdle(), server::Server::Held{});
    EXPECT_TRUE(AttendsRightly(*stub_, sample_));
    EXPECT_TRUE(StreamsRightly(*stub_, sample_));
  }

  // What an open stream of `sample_` reserves.
  server::Server::Held Cost() {
    auto server = server::Server::Start(TestServerOptions(), TestBackends());
    EXPECT_TRUE(server.ok());
    const auto stub = v1::Attention::NewStub(grpc::CreateChannel(
        "127.0.0.1:" + std::to_string((*server)->port()), grpc::InsecureChannelCredentials()));
    PlainStream stream(*stub, sample_);
    EXPECT_TRUE(stream.Open());
    return (*server)->held();
  }

  const Sample sample_ = MakeSample(SmallProblem(), 1);
  std::unique_ptr<v1::Attention::Stub> stub_;
};

TEST_F(CapacityErrors, TooManyRequests) {
  server::ServerOptions options = TestServerOptions();
  options.max_requests = 1;
  Start(options);
  ExpectFullWhileOneRuns("server.concurrent_requests: the request needs 1, 1 of 1 are in use");
}

TEST_F(CapacityErrors, TooManyRequestsOfOneConnection) {
  constexpr std::uint64_t kMany = 100;
  server::ServerOptions options = TestServerOptions();
  options.max_requests = kMany;
  Start(options);
  v1::AttendStreamRequest header;
  *header.mutable_header() = HeaderFor(sample_.problem);
  std::vector<std::unique_ptr<PlainStream>> streams;
  for (std::uint64_t i = 0; i < kMany; ++i) {
    streams.push_back(std::make_unique<PlainStream>(
        *stub_, sample_, std::chrono::system_clock::now() + std::chrono::seconds(60)));
    ASSERT_TRUE(streams.back()->Send(header));
  }
  while (server().held().requests < kMany) std::this_thread::yield();
  ExpectRefused(
      sample_, StatusCode::RESOURCE_EXHAUSTED,
      StartsWith("server.concurrent_requests: the request needs 1, 100 of 100 are in use"),
      Details::kQuotaAndRetry);
  for (const auto& stream : streams) stream->Cancel();
  for (const auto& stream : streams) stream->Finish();
}

TEST_F(CapacityErrors, HostMemoryInUse) {
  server::ServerOptions options = TestServerOptions();
  options.host_memory_bytes = Cost().host_bytes_reserved * 3 / 2;
  Start(options);
  ExpectFullWhileOneRuns(
      "server.host_bytes: the request needs [0-9]+, [0-9]+ of [0-9]+ are in use");
}

TEST_F(CapacityErrors, DeviceMemoryInUse) {
  server::ServerOptions options = TestServerOptions();
  options.device_memory_bytes = Cost().device_bytes_reserved * 3 / 2;
  Start(options);
  ExpectFullWhileOneRuns(
      "server.device_bytes: the request needs [0-9]+, [0-9]+ of [0-9]+ are in use");
}

TEST_F(CapacityErrors, LargerThanHostMemory) {
  server::ServerOptions options = TestServerOptions();
  options.host_memory_bytes = Cost().host_bytes_reserved;
  Start(options);
  AttentionProblem larger = sample_.problem;
  larger.batch = 2;
  ExpectRefused({larger, MakeData(larger, DataKind::kNormal, 2), {}},
                StatusCode::FAILED_PRECONDITION,
                MatchesRegex("server.host_bytes: the request needs [0-9]+, the limit is [0-9]+"),
                Details::kQuota);
  EXPECT_TRUE(StreamsRightly(*stub_, sample_));
}

TEST_F(CapacityErrors, LargerThanDeviceMemory) {
  server::ServerOptions options = TestServerOptions();
  options.device_memory_bytes = Cost().device_bytes_reserved;
  Start(options);
  AttentionProblem larger = sample_.problem;
  larger.seqlen_k = 1000;
  ExpectRefused({larger, MakeData(larger, DataKind::kNormal, 2), {}},
                StatusCode::FAILED_PRECONDITION,
                MatchesRegex("server.device_bytes: the request needs [0-9]+, the limit is [0-9]+"),
                Details::kQuota);
  EXPECT_TRUE(StreamsRightly(*stub_, sample_));
}

TEST_F(CapacityErrors, AbsurdShapesCostNothing) {
  Start(TestServerOptions());
  v1::AttendRequest request = UnaryRequest(sample_);
  request.mutable_header()->mutable_shape()->set_seqlen_q(std::int64_t{1} << 31);
  request.mutable_header()->mutable_shape()->set_seqlen_k(std::int64_t{1} << 31);
  EXPECT_TRUE(IsError(Unary(request), StatusCode::FAILED_PRECONDITION,
                      StartsWith("server.host_bytes: the request needs "), Details::kQuota));
  request.mutable_header()->mutable_mask()->mutable_pattern()->mutable_sliding_window();
  EXPECT_TRUE(IsError(Unary(request), StatusCode::FAILED_PRECONDITION,
                      StartsWith("server.max_mask_bytes: the mask has "), Details::kQuota));
  // Sizes whose sum is more than 64 bits hold.
  request = UnaryRequest(sample_);
  v1::AttendHeader& header = *request.mutable_header();
  header.clear_mask();
  header.set_return_lse(false);
  v1::AttentionShape& shape = *header.mutable_shape();
  shape.set_batch(1);
  shape.set_num_heads_q(std::int64_t{1} << 28);
  shape.set_num_heads_kv(1);
  shape.set_seqlen_q((std::int64_t{1} << 31) - 1);
  shape.set_seqlen_k(1);
  shape.set_head_dim(8);
  header.clear_seqlens_k();
  header.clear_seqlens_q();
  header.add_seqlens_q(1);
  EXPECT_TRUE(IsError(Unary(request), StatusCode::FAILED_PRECONDITION,
                      StartsWith("server.host_bytes: the request needs about "), Details::kQuota));
  EXPECT_TRUE(AttendsRightly(*stub_, sample_));
}

TEST_F(CapacityErrors, MaskOverTheLimit) {
  server::ServerOptions options = TestServerOptions();
  options.max_mask_bytes = 1;
  Start(options);
  v1::AttendRequest request = UnaryRequest(sample_);
  request.mutable_header()->mutable_mask()->mutable_pattern()->mutable_sliding_window();
  EXPECT_TRUE(IsError(Unary(request), StatusCode::FAILED_PRECONDITION,
                      std::string("server.max_mask_bytes: the mask has 2 bytes, the limit is 1"),
                      Details::kQuota));
  EXPECT_TRUE(AttendsRightly(*stub_, sample_));
}

TEST_F(CapacityErrors, DeadlinePassesWhileComputing) {
  Start(TestServerOptions());
  HoldAttends();
  const auto deadline = std::chrono::system_clock::now() + std::chrono::milliseconds(100);
  {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    v1::AttendResponse response;
    EXPECT_EQ(stub_->Attend(&context, UnaryRequest(sample_), &response).error_code(),
              StatusCode::DEADLINE_EXCEEDED);
  }
  {
    PlainStream stream(*stub_, sample_,
                       std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    ASSERT_TRUE(stream.Open());
    for (const auto& chunk : PayloadMessages(sample_, stream.accepted(), 1 << 20)) {
      stream.Send(chunk);
    }
    EXPECT_EQ(stream.Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
  }
  ReleaseAttends();
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
  EXPECT_TRUE(AttendsRightly(*stub_, sample_));
  EXPECT_TRUE(StreamsRightly(*stub_, sample_));
}

TEST_F(CapacityErrors, DeadlinePassesBeforePayload) {
  Start(TestServerOptions());
  PlainStream stream(*stub_, sample_,
                     std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  ASSERT_TRUE(stream.Open());
  EXPECT_EQ(stream.Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
  EXPECT_TRUE(StreamsRightly(*stub_, sample_));
}

TEST_F(CapacityErrors, DeadlineThatTheDeviceCannotMeet) {
  server::ServerOptions options = TestServerOptions();
  options.default_deadline = std::chrono::hours(24 * 30);  // enough with any sanitizer
  Start(options);
  Sample hopeless;  // of many seconds of any processor
  hopeless.problem = SmallProblem();
  hopeless.problem.seqlen_q = hopeless.problem.seqlen_k = 200000;
  PlainStream stream(*stub_, hopeless, std::chrono::system_clock::now() + std::chrono::seconds(2));
  EXPECT_FALSE(stream.Open(HeaderFor(hopeless.problem)));
  EXPECT_TRUE(IsError(stream.Finish(), StatusCode::DEADLINE_EXCEEDED,
                      MatchesRegex("the deadline cannot be met: about [0-9]+ ms of the device are "
                                   "needed, 0 ms are queued before, [0-9]+ ms are left"),
                      Details::kNone));
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
  PlainStream patient(*stub_, hopeless, kNoDeadline);
  EXPECT_TRUE(patient.Open(HeaderFor(hopeless.problem)));
  patient.Cancel();
  patient.Finish();
}

TEST_F(CapacityErrors, RequestsWithoutADeadlineHaveTheServers) {
  server::ServerOptions options = TestServerOptions();
  options.default_deadline = std::chrono::milliseconds(100);
  options.stall_timeout = std::chrono::milliseconds(800);
  Start(options);
  PlainStream stream(*stub_, sample_, kNoDeadline);
  ASSERT_TRUE(stream.Open());
  EXPECT_TRUE(IsError(stream.Finish(), StatusCode::DEADLINE_EXCEEDED,
                      std::string("the deadline passed before all payload had come"),
                      Details::kNone));
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
}

TEST_F(CapacityErrors, ConnectionsOverTheLimitAreClosed) {
  server::ServerOptions options = TestServerOptions();
  options.max_connections = 2;
  StartServer(options);
  const auto connects = [&](const std::shared_ptr<grpc::Channel>& channel) {
    return channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(20));
  };
  std::shared_ptr<grpc::Channel> first = NewChannel();
  const std::shared_ptr<grpc::Channel> second = NewChannel();
  ASSERT_TRUE(connects(first));
  ASSERT_TRUE(connects(second));

  const std::shared_ptr<grpc::Channel> third = NewChannel();
  const auto refused = v1::Attention::NewStub(third);
  grpc::ClientContext context;
  v1::AttendResponse response;
  EXPECT_EQ(refused->Attend(&context, UnaryRequest(sample_), &response).error_code(),
            StatusCode::UNAVAILABLE);
  const auto others = v1::Attention::NewStub(second);
  EXPECT_TRUE(StreamsRightly(*others, sample_));

  first.reset();
  EXPECT_TRUE(connects(third));
  EXPECT_TRUE(AttendsRightly(*refused, sample_));
  v1::Statistics statistics;
  grpc::ClientContext statistics_context;
  ASSERT_TRUE(v1::Server::NewStub(third)->GetStatistics(&statistics_context, {}, &statistics).ok());
  EXPECT_EQ(statistics.connections(), 2U);
  EXPECT_GE(statistics.connections_refused(), 1U);
}

}  // namespace
}  // namespace sage::testing
