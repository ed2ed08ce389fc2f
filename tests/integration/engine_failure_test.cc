// A device that fails: the request that met the failure ends with it, the next is served.
#include <atomic>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/faulty_server_fixture.h"
#include "tests/support/plain_client.h"
#include "tests/support/wire_error.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;

class EngineFailure : public FaultyServerFixture {
 protected:
  void Start(const server::ServerOptions& options = TestServerOptions()) {
    StartFaultyServer(options);
    stub_ = v1::Attention::NewStub(NewChannel());
  }

  grpc::Status Unary() {
    grpc::ClientContext context;
    v1::AttendResponse response;
    return stub_->Attend(&context, UnaryRequest(sample_), &response);
  }

  grpc::Status Streamed() {
    PlainStream stream(*stub_, sample_);
    EXPECT_TRUE(stream.Open());
    for (const auto& message : PayloadMessages(sample_, stream.accepted(), 1 << 18)) {
      if (!stream.Send(message)) break;
    }
    return stream.Finish();
  }

  // Plants one failure before each method's request, with `code` and `message` to be seen.
  void ExpectOneFailureEach(std::atomic<int> Faults::*fault, StatusCode code,
                            const std::string& message) {
    faults.*fault = 1;
    EXPECT_TRUE(IsError(Unary(), code, message, Details::kNone));
    EXPECT_TRUE(AttendsRightly(*stub_, sample_));
    faults.*fault = 1;
    EXPECT_TRUE(IsError(Streamed(), code, message, Details::kNone));
    EXPECT_TRUE(StreamsRightly(*stub_, sample_));
  }

  const Sample sample_ = MakeSample(SmallProblem(), 1);
  std::unique_ptr<v1::Attention::Stub> stub_;
};

TEST_F(EngineFailure, Prepare) {
  Start();
  ExpectOneFailureEach(&Faults::prepares, StatusCode::INTERNAL, "planted: prepare failed");
}

TEST_F(EngineFailure, Attend) {
  Start();
  ExpectOneFailureEach(&Faults::attends, StatusCode::INTERNAL, "planted: attend failed");
}

TEST_F(EngineFailure, InOneOfManyUnits) {
  server::ServerOptions options = TestServerOptions();
  options.unit_bytes = 1;
  Start(options);
  ExpectOneFailureEach(&Faults::prepares, StatusCode::INTERNAL, "planted: prepare failed");
  ExpectOneFailureEach(&Faults::attends, StatusCode::INTERNAL, "planted: attend failed");
}

// Slabs are kept from request to request, so a server allocates little after its first one.
TEST_F(EngineFailure, AllocationForAUnaryRequest) {
  Start();
  faults.allocations = 1;
  EXPECT_TRUE(IsError(Unary(), StatusCode::RESOURCE_EXHAUSTED,
                      std::string("planted: allocation failed"), Details::kNone));
  EXPECT_TRUE(AttendsRightly(*stub_, sample_));
}

TEST_F(EngineFailure, AllocationForAStream) {
  Start();
  faults.allocations = 1;
  EXPECT_TRUE(IsError(Streamed(), StatusCode::RESOURCE_EXHAUSTED,
                      std::string("planted: allocation failed"), Details::kNone));
  EXPECT_TRUE(StreamsRightly(*stub_, sample_));
}

TEST_F(EngineFailure, LeavesAnOpenStreamAlone) {
  Start();
  PlainStream open(*stub_, sample_);
  ASSERT_TRUE(open.Open());
  const auto messages = PayloadMessages(sample_, open.accepted(), 1000);
  for (std::size_t i = 0; i < 10; ++i) ASSERT_TRUE(open.Send(messages[i]));
  ExpectOneFailureEach(&Faults::attends, StatusCode::INTERNAL, "planted: attend failed");
  for (std::size_t i = 10; i < messages.size(); ++i) ASSERT_TRUE(open.Send(messages[i]));
  EXPECT_TRUE(open.FinishesRightly());
}

}  // namespace
}  // namespace sage::testing
