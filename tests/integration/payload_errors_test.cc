// Payload that does not fit its request, message by message and as a whole, and messages that are
// none: each ends its own request with the right error, and the server goes on.
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/plain_client.h"
#include "tests/support/server_fixture.h"
#include "tests/support/wire_error.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;
using ::testing::MatchesRegex;
using ::testing::StartsWith;

using Messages = std::vector<v1::AttendStreamRequest>;

v1::AttendStreamRequest ChunkOf(v1::TensorRole tensor, std::uint32_t unit, std::uint64_t offset,
                                std::size_t size) {
  v1::AttendStreamRequest message;
  message.mutable_chunk()->set_tensor(tensor);
  message.mutable_chunk()->set_unit(unit);
  message.mutable_chunk()->set_offset(offset);
  message.set_data(std::string(size, 'x'));
  return message;
}

v1::AttendStreamRequest QChunk(std::uint64_t offset, std::size_t size) {
  return ChunkOf(v1::TENSOR_ROLE_Q, 0, offset, size);
}

class PayloadErrors : public ServerFixture {
 protected:
  void SetUp() override {
    StartServer();
    channel_ = NewChannel();
    stub_ = v1::Attention::NewStub(channel_);
  }

  // Opens a stream, sends `messages`, half-closes and gives the status.
  grpc::Status Exchange(const Messages& messages) {
    PlainStream stream(*stub_, sample_);
    EXPECT_TRUE(stream.Open());
    for (const auto& message : messages) {
      if (!stream.Send(message)) break;
    }
    stream.HalfClose();
    return stream.Finish();
  }

  // The same without a header before.
  grpc::Status ExchangeBare(const Messages& messages) {
    grpc::ClientContext context;
    const auto stream = stub_->AttendStream(&context);
    for (const auto& message : messages) {
      if (!stream->Write(message)) break;
    }
    stream->WritesDone();
    v1::AttendStreamResponse response;
    while (stream->Read(&response)) {
    }
    return stream->Finish();
  }

  grpc::Status Unary(const std::function<void(v1::AttendRequest&)>& spoil) {
    v1::AttendRequest request = UnaryRequest(sample_);
    spoil(request);
    grpc::ClientContext context;
    v1::AttendResponse response;
    return stub_->Attend(&context, request, &response);
  }

  void ExpectServesOn() {
    EXPECT_TRUE(AttendsRightly(*stub_, sample_));
    EXPECT_TRUE(StreamsRightly(*stub_, sample_));
  }

  const Sample sample_ = MakeSample(SmallProblem(), 1);  // one unit: q 66048, k and v 16640 bytes
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Attention::Stub> stub_;
};

TEST_F(PayloadErrors, ChunksMustFollowThePlan) {
  struct Case {
    const char* name;
    Messages messages;
    const char* message;
  };
  const Case cases[] = {
      {"Gap",
       {QChunk(64, 64)},
       "chunk: got q of unit 0 at offset 64; next is q of unit 0 at offset 0"},
      {"GapLater",
       {QChunk(0, 128), QChunk(256, 64)},
       "chunk: got q of unit 0 at offset 256; next is q of unit 0 at offset 128"},
      {"Overlap",
       {QChunk(0, 128), QChunk(64, 128)},
       "chunk: got q of unit 0 at offset 64; next is q of unit 0 at offset 128"},
      {"Duplicate",
       {QChunk(0, 128), QChunk(0, 128)},
       "chunk: got q of unit 0 at offset 0; next is q of unit 0 at offset 128"},
      {"DuplicateTensor",
       {QChunk(0, 66048), QChunk(0, 66048)},
       "chunk: got q of unit 0 at offset 0; next is k of unit 0 at offset 0"},
      {"KeysFirst",
       {ChunkOf(v1::TENSOR_ROLE_K, 0, 0, 64)},
       "chunk: got k of unit 0 at offset 0; next is q of unit 0 at offset 0"},
      {"NoSuchUnit",
       {ChunkOf(v1::TENSOR_ROLE_Q, 4294967295, 0, 64)},
       "chunk: got q of unit 4294967295 at offset 0; next is q of unit 0 at offset 0"},
      {"OffsetHuge",
       {QChunk(~std::uint64_t{0}, 64)},
       "chunk: got q of unit 0 at offset 18446744073709551615; next is q of unit 0 at offset 0"},
      {"OutOfRange",
       {QChunk(0, 66049)},
       "data: got 66049 bytes of q of unit 0 at offset 0, allowed at most 66048"},
      {"OutOfRangeLater",
       {QChunk(0, 66000), QChunk(66000, 49)},
       "data: got 49 bytes of q of unit 0 at offset 66000, allowed at most 48"},
      {"ZeroSize", {QChunk(0, 0)}, "data: got 0 bytes, allowed at least 1"},
      {"ZeroSizeLater", {QChunk(0, 128), QChunk(128, 0)}, "data: got 0 bytes, allowed at least 1"},
      {"OutputRole",
       {ChunkOf(v1::TENSOR_ROLE_OUTPUT, 0, 0, 64)},
       "chunk.tensor: got 4, allowed Q (1), K (2), V (3)"},
      {"NoRole",
       {ChunkOf(v1::TENSOR_ROLE_UNSPECIFIED, 0, 0, 64)},
       "chunk.tensor: got 0, allowed Q (1), K (2), V (3)"},
      {"UnknownRole",
       {ChunkOf(static_cast<v1::TensorRole>(77), 0, 0, 64)},
       "chunk.tensor: got 77, allowed Q (1), K (2), V (3)"},
      {"EmptyMessage", {v1::AttendStreamRequest()}, "chunk: missing"},
      {"HalfCloseAtOnce", {}, "data: the stream ended after 0 of 99328 bytes"},
      {"HalfCloseInMidTensor", {QChunk(0, 100)}, "data: the stream ended after 100 of 99328 bytes"},
      {"HalfCloseBetweenTensors",
       {QChunk(0, 66048)},
       "data: the stream ended after 66048 of 99328 bytes"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_TRUE(IsError(Exchange(c.messages), StatusCode::INVALID_ARGUMENT, std::string(c.message),
                        Details::kBadRequest));
    ExpectServesOn();
  }
}

TEST_F(PayloadErrors, HeadersComeOnceFirstAndAlone) {
  v1::AttendStreamRequest header;
  *header.mutable_header() = HeaderFor(sample_.problem);
  v1::AttendStreamRequest header_and_chunk = QChunk(0, 64);
  *header_and_chunk.mutable_header() = header.header();
  v1::AttendStreamRequest header_and_data = header;
  header_and_data.set_data("x");

  EXPECT_TRUE(IsError(Exchange({header}), StatusCode::INVALID_ARGUMENT,
                      std::string("header: got a second one"), Details::kBadRequest));
  const std::pair<Messages, const char*> cases[] = {
      {{QChunk(0, 64)}, "header: missing from the first message"},
      {{v1::AttendStreamRequest()}, "header: missing from the first message"},
      {{header_and_chunk}, "chunk: not allowed in the first message"},
      {{header_and_data}, "chunk: not allowed in the first message"},
      {{}, "header: the stream ended before it"},
  };
  for (const auto& [messages, message] : cases) {
    SCOPED_TRACE(message);
    EXPECT_TRUE(IsError(ExchangeBare(messages), StatusCode::INVALID_ARGUMENT, std::string(message),
                        Details::kBadRequest));
    ExpectServesOn();
  }
}

TEST_F(PayloadErrors, NothingMayFollowTheWholePayload) {
  // The output is far larger than what the transport takes without a reader, so the request is
  // still open when the message too many arrives.
  AttentionProblem problem = SmallProblem();
  problem.num_heads_q = problem.num_heads_kv = 8;
  problem.seqlen_q = 2048;
  problem.head_dim = 128;
  problem.output_dtype = DType::kFloat32;
  const Sample sample{problem, MakeData(problem, DataKind::kNormal, 1), {}};
  PlainStream stream(*stub_, sample);
  ASSERT_TRUE(stream.Open());
  for (const auto& message : PayloadMessages(sample, stream.accepted(), 1 << 20)) {
    ASSERT_TRUE(stream.Send(message));
  }
  stream.Send(QChunk(0, 7));
  EXPECT_TRUE(IsError(stream.Finish(), StatusCode::INVALID_ARGUMENT,
                      std::string("chunk: got 7 bytes of q of unit 0 after the whole payload"),
                      Details::kBadRequest));
  ExpectServesOn();
}

TEST_F(PayloadErrors, ChecksumMismatchIsDataLoss) {
  v1::AttendStreamRequest message = QChunk(0, 9);
  message.set_data("123456789");
  message.mutable_chunk()->set_crc32c(0xe3069284);  // the right one ends in 3
  EXPECT_TRUE(IsError(Exchange({message}), StatusCode::DATA_LOSS,
                      std::string("chunk.crc32c: got 3808858756 for q of unit 0 at offset 0, but "
                                  "the data has 3808858755"),
                      Details::kNone));
  ExpectServesOn();
  message.mutable_chunk()->set_crc32c(0xe3069283);
  EXPECT_TRUE(IsError(Exchange({message}), StatusCode::INVALID_ARGUMENT,
                      std::string("data: the stream ended after 9 of 99328 bytes"),
                      Details::kBadRequest));
}

TEST_F(PayloadErrors, InlineTensorsMustHaveTheirSize) {
  const std::pair<std::function<void(v1::AttendRequest&)>, const char*> cases[] = {
      {[](v1::AttendRequest& r) { r.clear_q(); }, "q: got 0 bytes, allowed 66048 for this shape"},
      {[](v1::AttendRequest& r) { r.mutable_q()->pop_back(); },
       "q: got 66047 bytes, allowed 66048 for this shape"},
      {[](v1::AttendRequest& r) { r.mutable_k()->push_back('x'); },
       "k: got 16641 bytes, allowed 16640 for this shape"},
      {[](v1::AttendRequest& r) { r.set_v("x"); }, "v: got 1 bytes, allowed 16640 for this shape"},
  };
  for (const auto& [spoil, message] : cases) {
    SCOPED_TRACE(message);
    EXPECT_TRUE(IsError(Unary(spoil), StatusCode::INVALID_ARGUMENT, std::string(message),
                        Details::kBadRequest));
    ExpectServesOn();
  }
}

TEST_F(PayloadErrors, MessagesHaveALargestSize) {
  const grpc::Status unary =
      Unary([](v1::AttendRequest& r) { r.set_q(std::string(3 << 20, 'x')); });
  EXPECT_TRUE(IsError(unary, StatusCode::RESOURCE_EXHAUSTED,
                      MatchesRegex("server.max_unary_message_bytes: got 31[0-9]+ bytes, the limit "
                                   "is 3145728; use AttendStream"),
                      Details::kQuota));
  ExpectServesOn();
  EXPECT_TRUE(IsError(Exchange({QChunk(0, (4 << 20) + 1)}), StatusCode::RESOURCE_EXHAUSTED,
                      std::string("server.max_chunk_bytes: got 4194305 bytes, the limit is "
                                  "4194304"),
                      Details::kQuota));
  ExpectServesOn();
  // Past these the transport itself refuses, before the service sees anything.
  const auto too_large = StartsWith("Received message larger than max (");
  EXPECT_TRUE(IsError(Exchange({QChunk(0, 8 << 20)}), StatusCode::RESOURCE_EXHAUSTED, too_large,
                      Details::kNone));
  ExpectServesOn();
  EXPECT_TRUE(IsError(Unary([](v1::AttendRequest& r) { r.set_q(std::string(8 << 20, 'x')); }),
                      StatusCode::RESOURCE_EXHAUSTED, too_large, Details::kNone));
  ExpectServesOn();
}

TEST_F(PayloadErrors, GarbageIsNoMessage) {
  v1::AttendStreamRequest header;
  *header.mutable_header() = HeaderFor(sample_.problem);
  const std::string good_header = header.SerializeAsString();
  const std::string good_chunk = QChunk(0, 64).SerializeAsString();
  const std::string garbage[] = {
      std::string("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11),  // endless varint
      std::string("\x00", 1),                                           // field number 0
      std::string("\x0a\x05zz", 4),                                     // shorter than it says
      std::string("\x0a\x02\xff\xff", 4),                               // broken inside the header
      std::string("\x7a\xff\xff\xff\xff\x0f", 6),                       // data of 4 GiB
      std::string("\x0c", 1),                                           // end of no group
      good_chunk.substr(0, good_chunk.size() - 1),
  };
  for (const std::string& bytes : garbage) {
    SCOPED_TRACE(::testing::PrintToString(bytes));
    const std::string method = "/sage.v1.Attention/AttendStream";
    for (const auto& messages :
         {std::vector<std::string>{bytes}, std::vector<std::string>{good_header, bytes}}) {
      EXPECT_TRUE(IsError(
          RawExchange(channel_, method, messages).status, StatusCode::INVALID_ARGUMENT,
          std::string("message: not a protobuf message of the expected type"), Details::kNone));
    }
    const RawAnswer unary = RawExchange(channel_, "/sage.v1.Attention/Attend", {bytes});
    EXPECT_TRUE(IsError(unary.status, StatusCode::INVALID_ARGUMENT,
                        std::string("message: not a protobuf message of the expected type"),
                        Details::kNone));
    ExpectServesOn();
  }
}

}  // namespace
}  // namespace sage::testing
