// A client made of nothing but the generated stubs, as a user of any language would write it.
//
// Independent of the client library and of the server's code: pieces of units are found by index,
// from the definition in attention.proto.
#ifndef SAGE_TESTS_SUPPORT_PLAIN_CLIENT_H_
#define SAGE_TESTS_SUPPORT_PLAIN_CLIENT_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "sage/v1/attention.grpc.pb.h"
#include "tests/support/problem_generator.h"

namespace sage::testing {

// A problem without a mask, its tensors, and the oracle's answer.
struct Sample {
  AttentionProblem problem;
  ProblemData data;
  ReferenceResult reference;

  std::uint64_t payload_bytes() const { return data.q.size() + data.k.size() + data.v.size(); }
};
Sample MakeSample(const AttentionProblem& problem, std::uint64_t seed);

// Grouped heads, two query tiles, a partial key block, lse: small, and nothing is a multiple.
AttentionProblem SmallProblem();

v1::AttendHeader HeaderFor(const AttentionProblem& problem);

// Whether `output` is the oracle's answer within the limits of its precision.
::testing::AssertionResult IsRight(const Sample& sample, const PoisonedOutput& output);

// The unary method: the whole request, and the whole exchange held against the oracle.
v1::AttendRequest UnaryRequest(const Sample& sample);
::testing::AssertionResult AttendsRightly(v1::Attention::Stub& stub, const Sample& sample);

// Payload of `sample` in the order of the plan, in chunks of at most `chunk_bytes`.
std::vector<v1::AttendStreamRequest> PayloadMessages(const Sample& sample,
                                                     const v1::Accepted& accepted,
                                                     std::size_t chunk_bytes);

// One AttendStream call. Not thread-safe, but one thread may send while another receives.
class PlainStream {
 public:
  using Stream = grpc::ClientReaderWriter<v1::AttendStreamRequest, v1::AttendStreamResponse>;

  PlainStream(v1::Attention::Stub& stub, const Sample& sample);
  // As above, for a stream that must end by `deadline`.
  PlainStream(v1::Attention::Stub& stub, const Sample& sample,
              std::chrono::system_clock::time_point deadline);

  // Sends the header, HeaderFor(sample.problem) where none is given, and reads the answer to it.
  // False where the stream ended instead.
  bool Open();
  bool Open(const v1::AttendHeader& header);
  const v1::Accepted& accepted() const { return accepted_; }

  bool Send(const v1::AttendStreamRequest& message) { return stream_->Write(message); }
  void HalfClose() { stream_->WritesDone(); }
  void Cancel() { context_.TryCancel(); }

  // Takes the next message; chunks of output go to their place. False once the stream has ended.
  bool Receive();
  // Whether the whole output of `unit` has come.
  bool UnitIsComplete(std::uint32_t unit) const;
  const std::optional<v1::AttendTrailer>& trailer() const { return trailer_; }

  // Reads to the end and gives the final status.
  grpc::Status Finish();
  // The same, and holds the answer against the oracle.
  ::testing::AssertionResult FinishesRightly();

 private:
  ::testing::AssertionResult Place(const v1::AttendStreamResponse& response);

  const Sample& sample_;
  grpc::ClientContext context_;
  const std::unique_ptr<Stream> stream_;
  v1::Accepted accepted_;
  PoisonedOutput output_;
  std::vector<std::uint64_t> missing_bytes_;  // of each unit's output and lse
  std::optional<v1::AttendTrailer> trailer_;
  std::string fault_;  // the first message that broke the protocol
};

// Header, payload, answer, by one stream that reads while it writes.
::testing::AssertionResult StreamsRightly(v1::Attention::Stub& stub, const Sample& sample,
                                          std::size_t chunk_bytes = 1 << 20);

// A call with raw bytes: sends all messages, half-closes, and reads to the end.
struct RawAnswer {
  grpc::Status status;
  std::vector<std::string> messages;
};
RawAnswer RawExchange(const std::shared_ptr<grpc::Channel>& channel, const std::string& method,
                      const std::vector<std::string>& messages);

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_PLAIN_CLIENT_H_
