// Peers that behave badly or leave: a stalled one is ended alone and in time, a cancelled request
// gives everything back at whatever stage it was.
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "sage/v1/server.grpc.pb.h"
#include "tests/support/faulty_server_fixture.h"
#include "tests/support/plain_client.h"
#include "tests/support/wire_error.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;

class StreamPeer : public FaultyServerFixture {
 protected:
  void Start(const server::ServerOptions& options = TestServerOptions()) {
    StartFaultyServer(options);
    stub_ = v1::Attention::NewStub(NewNarrowChannel());
  }

  // A new connection that does not make the more room for what nobody reads the slower it seems.
  std::shared_ptr<grpc::Channel> NewNarrowChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    return NewChannel(std::move(arguments));
  }

  v1::Statistics Statistics() {
    v1::Statistics statistics;
    grpc::ClientContext context;
    EXPECT_TRUE(v1::Server::NewStub(NewChannel())->GetStatistics(&context, {}, &statistics).ok());
    return statistics;
  }

  void SendAll(PlainStream& stream, const Sample& sample) {
    for (const auto& message : PayloadMessages(sample, stream.accepted(), 1 << 18)) {
      if (!stream.Send(message)) return;
    }
  }

  // Everything is back, and the server serves.
  void ExpectServesOn() {
    EXPECT_EQ(AwaitIdle(), server::Server::Held{});
    EXPECT_TRUE(StreamsRightly(*stub_, sample_));
    EXPECT_TRUE(AttendsRightly(*stub_, sample_));
  }

  const Sample sample_ = MakeSample(SmallProblem(), 1);
  std::unique_ptr<v1::Attention::Stub> stub_;
};

// Its output, 32 MiB, is far larger than what the transport takes without a reader.
Sample LargeOutput() {
  AttentionProblem problem = SmallProblem();
  problem.num_heads_q = problem.num_heads_kv = 32;
  problem.seqlen_q = 2048;
  problem.head_dim = 128;
  problem.output_dtype = DType::kFloat32;
  return {problem, MakeData(problem, DataKind::kNormal, 2), {}};
}

class StalledPeer : public StreamPeer {
 protected:
  void SetUp() override {
    server::ServerOptions options = TestServerOptions();
    options.stall_timeout = std::chrono::milliseconds(300);
    options.window_bytes = 1 << 20;
    Start(options);
  }

  // Runs `stall`, which ends a stream's status into its argument, while others are served.
  void ExpectEndedAlone(const std::function<void(grpc::Status&)>& stall, StatusCode code,
                        const std::string& message) {
    grpc::Status status;
    std::thread peer([&] { stall(status); });
    const auto other = v1::Attention::NewStub(NewChannel());
    do {
      EXPECT_TRUE(StreamsRightly(*other, sample_));
    } while (server().held().requests > 0);
    peer.join();
    EXPECT_TRUE(IsError(status, code, message, Details::kNone));
    ExpectServesOn();
  }
};

TEST_F(StalledPeer, SendsNoHeader) {
  ExpectEndedAlone(
      [&](grpc::Status& status) {
        PlainStream stream(*stub_, sample_);
        status = stream.Finish();
      },
      StatusCode::DEADLINE_EXCEEDED, "stalled: the client sent nothing for 300 ms");
}

TEST_F(StalledPeer, SendsAHeaderAndThenNothing) {
  ExpectEndedAlone(
      [&](grpc::Status& status) {
        PlainStream stream(*stub_, sample_);
        EXPECT_TRUE(stream.Open());
        status = stream.Finish();
      },
      StatusCode::DEADLINE_EXCEEDED, "stalled: the client sent nothing for 300 ms");
}

TEST_F(StalledPeer, StopsInMidPayload) {
  ExpectEndedAlone(
      [&](grpc::Status& status) {
        PlainStream stream(*stub_, sample_);
        EXPECT_TRUE(stream.Open());
        EXPECT_TRUE(stream.Send(PayloadMessages(sample_, stream.accepted(), 1000).front()));
        status = stream.Finish();
      },
      StatusCode::DEADLINE_EXCEEDED, "stalled: the client sent nothing for 300 ms");
}

TEST_F(StalledPeer, ExceedsItsWindowAndNeverReads) {
  const Sample large = LargeOutput();
  ExpectEndedAlone(
      [&](grpc::Status& status) {
        PlainStream stream(*stub_, large);
        EXPECT_TRUE(stream.Open());
        SendAll(stream, large);  // blocks, unless a slow server's connection has room for it all
        while (Statistics().requests_failed() == 0) std::this_thread::yield();
        status = stream.Finish();
      },
      // Only a reset gets past output that nobody reads, and it carries no text of ours.
      StatusCode::CANCELLED, "Cancelled on the server side");
}

TEST_F(StalledPeer, NeverReadsTheAnswerOfAUnaryRequest) {
  AttentionProblem problem = SmallProblem();
  problem.seqlen_q = 1024;
  problem.head_dim = 128;
  problem.output_dtype = DType::kFloat32;  // 2 MiB of output
  const Sample sample{problem, MakeData(problem, DataKind::kNormal, 3), {}};
  grpc::GenericStub stub(NewNarrowChannel());
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  const auto call = stub.PrepareCall(&context, "/sage.v1.Attention/Attend", &queue);
  const auto completed = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  call->StartCall(nullptr);
  ASSERT_TRUE(completed());
  const grpc::Slice message(UnaryRequest(sample).SerializeAsString());
  call->WriteLast(grpc::ByteBuffer(&message, 1), {}, nullptr);
  ASSERT_TRUE(completed());

  while (Statistics().requests_ok() == 0) std::this_thread::yield();
  EXPECT_GT(server().held().host_bytes_reserved, 1U << 20)
      << "output that nobody reads is accounted for";
  ExpectServesOn();
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  completed();
  queue.Shutdown();
}

class CancellingPeer : public StreamPeer {
 protected:
  void ExpectCancelled(PlainStream& stream) {
    stream.Cancel();
    EXPECT_EQ(stream.Finish().error_code(), StatusCode::CANCELLED);
  }
};

TEST_F(CancellingPeer, BeforeTheHeader) {
  Start();
  PlainStream stream(*stub_, sample_);
  ExpectCancelled(stream);
  ExpectServesOn();
}

TEST_F(CancellingPeer, OnceAccepted) {
  Start();
  PlainStream stream(*stub_, sample_);
  ASSERT_TRUE(stream.Open());
  EXPECT_EQ(server().held().requests, 1U);
  ExpectCancelled(stream);
  ExpectServesOn();
  EXPECT_EQ(Statistics().requests_cancelled(), 1U);
}

TEST_F(CancellingPeer, InMidPayload) {
  Start();
  const std::vector<std::size_t> stages = {1, 50, 70, 99};  // within q, at its end, in k, in v
  for (const std::size_t sent : stages) {
    SCOPED_TRACE(sent);
    PlainStream stream(*stub_, sample_);
    ASSERT_TRUE(stream.Open());
    const auto messages = PayloadMessages(sample_, stream.accepted(), 1000);
    for (std::size_t i = 0; i < sent; ++i) ASSERT_TRUE(stream.Send(messages[i]));
    ExpectCancelled(stream);
    ExpectServesOn();
  }
  EXPECT_EQ(Statistics().requests_cancelled(), stages.size());
}

TEST_F(CancellingPeer, WhileComputing) {
  server::ServerOptions options = TestServerOptions();
  options.unit_bytes = 1;  // some units run, some wait
  Start(options);
  HoldAttends();
  PlainStream stream(*stub_, sample_);
  ASSERT_TRUE(stream.Open());
  SendAll(stream, sample_);
  AwaitHeldAttend();
  ExpectCancelled(stream);
  EXPECT_EQ(server().held().requests, 1U) << "what runs on the device still needs its memory";
  ReleaseAttends();
  ExpectServesOn();
}

TEST_F(CancellingPeer, WhileComputingAUnaryRequest) {
  Start();
  HoldAttends();
  grpc::ClientContext context;
  grpc::Status status;
  std::thread client([&] {
    v1::AttendResponse response;
    status = stub_->Attend(&context, UnaryRequest(sample_), &response);
  });
  while (server().held().requests == 0) std::this_thread::yield();
  context.TryCancel();
  client.join();
  EXPECT_EQ(status.error_code(), StatusCode::CANCELLED);
  ReleaseAttends();
  ExpectServesOn();
}

TEST_F(CancellingPeer, WhileOutputIsPending) {
  Start();
  const Sample large = LargeOutput();
  PlainStream stream(*stub_, large);
  ASSERT_TRUE(stream.Open());
  SendAll(stream, large);
  ASSERT_TRUE(stream.Receive());
  ExpectCancelled(stream);
  ExpectServesOn();
  EXPECT_EQ(Statistics().requests_cancelled(), 1U);
}

}  // namespace
}  // namespace sage::testing
