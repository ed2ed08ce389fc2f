// The client against a server that does as a test tells it.
#include "client/client.h"

#include <chrono>
#include <condition_variable>
#include <functional>
#include <latch>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "proto/wire/crc32c.h"
#include "sage/v1/attention.grpc.pb.h"

namespace sage {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

using ServerStream = grpc::ServerReaderWriter<v1::AttendStreamResponse, v1::AttendStreamRequest>;
using Script = std::function<grpc::Status(const v1::AttendHeader&, ServerStream*)>;

// Thread-safe.
class ScriptedService : public v1::Attention::Service {
 public:
  using Unary = std::function<grpc::Status(const v1::AttendRequest&, v1::AttendResponse*)>;

  // What the next calls do. Waits until no call uses the script before.
  void Play(Script script) {
    AwaitIdle();
    const std::lock_guard lock(mutex_);
    script_ = std::move(script);
  }
  void PlayUnary(Unary unary) {
    const std::lock_guard lock(mutex_);
    unary_ = std::move(unary);
  }
  // A client may be done with a call before its handler is.
  void AwaitIdle() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return running_ == 0; });
  }

  grpc::Status AttendStream(grpc::ServerContext*, ServerStream* stream) override {
    Script script;
    {
      const std::lock_guard lock(mutex_);
      script = script_;
      ++running_;
    }
    v1::AttendStreamRequest first;
    grpc::Status status = stream->Read(&first)
                              ? script(first.header(), stream)
                              : grpc::Status(grpc::StatusCode::INTERNAL, "no header");
    const std::lock_guard lock(mutex_);
    --running_;
    idle_.notify_all();
    return status;
  }
  grpc::Status Attend(grpc::ServerContext*, const v1::AttendRequest* request,
                      v1::AttendResponse* response) override {
    Unary unary;
    {
      const std::lock_guard lock(mutex_);
      unary = unary_;
    }
    return unary(*request, response);
  }

 private:
  std::mutex mutex_;  // guards all that follows
  std::condition_variable idle_;
  Script script_;
  Unary unary_;
  int running_ = 0;
};

// fp16, two units of one head each.
AttentionProblem Problem() {
  AttentionProblem problem;
  problem.batch = 1;
  problem.num_heads_q = 2;
  problem.num_heads_kv = 2;
  problem.seqlen_q = 200;
  problem.seqlen_k = 100;
  problem.head_dim = 16;
  problem.return_lse = true;
  return problem;
}
constexpr std::int64_t kOutBytes = 200 * 16 * 2;  // of a unit
constexpr std::int64_t kLseBytes = 200 * 4;
constexpr std::int64_t kUnitPayload = kOutBytes + 2 * 100 * 16 * 2;

v1::AttendStreamResponse Plan(std::uint64_t window = kUnitPayload) {
  v1::AttendStreamResponse response;
  v1::Accepted* accepted = response.mutable_accepted();
  accepted->set_server_id("fake");
  accepted->set_window_bytes(window);
  accepted->set_max_chunk_bytes(1 << 20);
  for (std::uint32_t head = 0; head < 2; ++head) {
    v1::Unit* unit = accepted->add_units();
    unit->set_kv_head_begin(head);
    unit->set_kv_head_count(1);
    unit->set_q_count(200);
    unit->set_kv_unit(head);
  }
  return response;
}

v1::AttendStreamResponse Piece(v1::TensorRole role, std::uint32_t unit, std::uint64_t offset,
                               const std::string& data) {
  v1::AttendStreamResponse response;
  response.mutable_chunk()->set_tensor(role);
  response.mutable_chunk()->set_unit(unit);
  response.mutable_chunk()->set_offset(offset);
  response.set_data(data);
  return response;
}

v1::AttendStreamResponse Trailer() {
  v1::AttendStreamResponse response;
  response.mutable_trailer()->set_request_id("r1");
  response.mutable_trailer()->set_block_density(0.25);
  return response;
}

std::string OutOf(std::uint32_t unit) {
  return std::string(kOutBytes, static_cast<char>('A' + unit));
}
std::string LseOf(std::uint32_t unit) {
  return std::string(kLseBytes, static_cast<char>('a' + unit));
}

// Reads the payload of one unit; its bytes in order of arrival.
std::string ReadUnit(ServerStream* stream, std::uint32_t unit) {
  std::string payload;
  v1::AttendStreamRequest request;
  while (payload.size() < kUnitPayload && stream->Read(&request)) {
    EXPECT_EQ(request.chunk().unit(), unit);
    if (request.chunk().has_crc32c()) {
      EXPECT_EQ(request.chunk().crc32c(),
                ExtendCrc32c(0, request.data().data(), request.data().size()));
    }
    payload += request.data();
  }
  return payload;
}

void WriteUnit(ServerStream* stream, std::uint32_t unit) {
  stream->Write(Piece(v1::TENSOR_ROLE_OUTPUT, unit, 0, OutOf(unit)));
  stream->Write(Piece(v1::TENSOR_ROLE_LSE, unit, 0, LseOf(unit)));
}

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    client_ = Connect(/*inline_limit_bytes=*/0);
    q_.assign(Problem().q_elements(), 1);
    k_.assign(Problem().kv_elements(), 2);
    v_.assign(Problem().kv_elements(), 3);
  }
  ~ClientTest() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::unique_ptr<Client> Connect(std::size_t inline_limit_bytes) const {
    ClientOptions options;
    options.target = "127.0.0.1:" + std::to_string(port_);
    options.inline_limit_bytes = inline_limit_bytes;
    options.chunk_bytes = 4 << 10;  // several chunks a piece
    return *Client::Connect(options);
  }

  AttendRequest Request() {
    out_.assign(Problem().q_elements(), 0xffff);
    lse_.assign(Problem().lse_elements(), std::numeric_limits<float>::quiet_NaN());
    AttendRequest request;
    request.problem = Problem();
    request.q = q_.data();
    request.k = k_.data();
    request.v = v_.data();
    request.out = out_.data();
    request.lse = lse_.data();
    return request;
  }

  // Whether the client received exactly what OutOf() and LseOf() give.
  bool HasWholeAnswer() const {
    const auto text = [](const auto& values) {
      return std::string(reinterpret_cast<const char*>(values.data()),
                         values.size() * sizeof(values[0]));
    };
    return text(out_) == OutOf(0) + OutOf(1) && text(lse_) == LseOf(0) + LseOf(1);
  }

  // What the client makes of a server that plans, reads everything, and then does `rest`.
  absl::Status StatusAfter(std::function<void(ServerStream*)> rest) {
    service_.Play([&](const v1::AttendHeader&, ServerStream* stream) {
      stream->Write(Plan(2 * kUnitPayload));
      for (std::uint32_t unit = 0; unit < 2; ++unit) ReadUnit(stream, unit);
      rest(stream);
      return grpc::Status::OK;
    });
    absl::Status status = client_->Attend(Request()).status();
    service_.AwaitIdle();
    return status;
  }

  std::vector<std::uint16_t> q_, k_, v_, out_;
  std::vector<float> lse_;
  int port_ = 0;
  ScriptedService service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, StreamsByThePlanWithinTheWindow) {
  service_.Play([](const v1::AttendHeader& header, ServerStream* stream) {
    EXPECT_EQ(header.request_id(), "mine");
    EXPECT_EQ(header.priority(), -3);
    // The window holds one unit: a client that sent more would break the plan's order of reads
    // here, and one that waited for more would hang.
    stream->Write(Plan());
    for (std::uint32_t unit = 0; unit < 2; ++unit) {
      EXPECT_EQ(ReadUnit(stream, unit).size(), static_cast<std::size_t>(kUnitPayload));
      WriteUnit(stream, unit);
    }
    stream->Write(Trailer());
    v1::AttendStreamRequest request;
    EXPECT_FALSE(stream->Read(&request));  // half-closed
    return grpc::Status::OK;
  });
  AttendRequest request = Request();
  request.request_id = "mine";
  request.priority = -3;
  request.checksums = true;
  std::vector<std::int64_t> done;
  std::int64_t range_bytes = 0;
  request.on_unit_done = [&](std::int64_t n, std::int64_t total) {
    EXPECT_EQ(total, 2);
    done.push_back(n);
  };
  request.on_range_done = [&](const void*, std::size_t size) {
    range_bytes += static_cast<std::int64_t>(size);
  };
  const auto report = client_->Attend(request);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->server_id, "fake");
  EXPECT_EQ(report->request_id, "r1");
  EXPECT_EQ(report->block_density, 0.25);
  EXPECT_EQ(done, (std::vector<std::int64_t>{1, 2}));
  EXPECT_EQ(range_bytes, 2 * (kUnitPayload + kOutBytes + kLseBytes));
  EXPECT_TRUE(HasWholeAnswer());
}

TEST_F(ClientTest, ConvertsFloat32OnItsWay) {
  std::string received;
  service_.Play([&](const v1::AttendHeader&, ServerStream* stream) {
    stream->Write(Plan());
    for (std::uint32_t unit = 0; unit < 2; ++unit) {
      received += ReadUnit(stream, unit);
      WriteUnit(stream, unit);
    }
    stream->Write(Trailer());
    return grpc::Status::OK;
  });
  std::vector<float> ones(q_.size(), 1.0f);
  AttendRequest request = Request();
  request.q = request.k = request.v = ones.data();
  request.float32_inputs = true;
  ASSERT_TRUE(client_->Attend(request).ok());
  ASSERT_EQ(received.size(), static_cast<std::size_t>(2 * kUnitPayload));
  for (std::size_t i = 0; i < received.size(); i += 2) {
    ASSERT_EQ(received[i], '\0');
    ASSERT_EQ(received[i + 1], '\x3c');  // 1.0 in fp16
  }

  ones[5000] = 1e6f;
  const absl::Status status = client_->Attend(request).status();
  service_.AwaitIdle();  // it writes to `received`
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("1e+06"));
}

TEST_F(ClientTest, RefusesAnswersThatBreakTheProtocol) {
  const auto out = v1::TENSOR_ROLE_OUTPUT;
  const struct {
    std::function<void(ServerStream*)> rest;
    std::string message;
  } kCases[] = {
      {[&](auto* s) { s->Write(Piece(out, 2, 0, "x")); }, "unit 2, of 2"},
      {[&](auto* s) { s->Write(Piece(out, 0, 1, "x")); }, "where 0 of"},
      {[&](auto* s) { s->Write(Piece(out, 0, ~0ull, "xx")); }, "where 0 of"},
      {[&](auto* s) { s->Write(Piece(out, 0, 0, OutOf(0) + "x")); }, "where 0 of"},
      {[&](auto* s) {
         s->Write(Piece(out, 0, 0, OutOf(0)));
         s->Write(Piece(out, 0, 0, OutOf(0)));
       },
       "where 6400 of 6400"},
      {[&](auto* s) { s->Write(Piece(v1::TENSOR_ROLE_Q, 0, 0, "x")); }, "tensor 1"},
      {[&](auto* s) { s->Write(Plan()); }, "neither chunk nor trailer"},
      {[&](auto* s) { WriteUnit(s, 0); }, "without a trailer"},
      {[&](auto* s) {
         WriteUnit(s, 1);
         s->Write(Trailer());
       },
       "after 1 of 2 units"},
      {[&](auto* s) {
         WriteUnit(s, 0);
         WriteUnit(s, 1);
         s->Write(Trailer());
         s->Write(Trailer());
       },
       "after the trailer"},
  };
  for (const auto& test : kCases) {
    const absl::Status status = StatusAfter(test.rest);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << test.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(test.message));
  }
}

TEST_F(ClientTest, RefusesUnitsAnsweredBeforeTheyWereSent) {
  service_.Play([](const v1::AttendHeader&, ServerStream* stream) {
    stream->Write(Plan());
    WriteUnit(stream, 1);  // the window keeps the client at unit 0
    return grpc::Status::OK;
  });
  const absl::Status status = client_->Attend(Request()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("before all of it was sent"));
}

TEST_F(ClientTest, NoticesDamagedOutput) {
  const absl::Status status = StatusAfter([](ServerStream* stream) {
    v1::AttendStreamResponse piece = Piece(v1::TENSOR_ROLE_OUTPUT, 0, 0, OutOf(0));
    piece.mutable_chunk()->set_crc32c(ExtendCrc32c(0, OutOf(0).data(), kOutBytes) ^ 1);
    stream->Write(piece);
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
}

TEST_F(ClientTest, RefusesAnUnusablePlan) {
  service_.Play([](const v1::AttendHeader&, ServerStream* stream) {
    v1::AttendStreamResponse plan = Plan();
    plan.mutable_accepted()->mutable_units()->RemoveLast();
    stream->Write(plan);
    return grpc::Status::OK;
  });
  const absl::Status status = client_->Attend(Request()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("plan is not usable"));
}

TEST_F(ClientTest, PassesOnTheDetailsOfErrors) {
  service_.Play([](const v1::AttendHeader&, ServerStream*) {
    google::rpc::Status details;
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(250'000'000);
    google::rpc::QuotaFailure quota;
    quota.add_violations()->set_subject("server.host_bytes");
    quota.mutable_violations(0)->set_description("asked 10, allowed 5");
    details.add_details()->PackFrom(retry);
    details.add_details()->PackFrom(quota);
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "memory is full",
                        details.SerializeAsString());
  });
  const absl::Status status = client_->Attend(Request()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("memory is full"), HasSubstr("try again in 250ms"),
                    HasSubstr("server.host_bytes: asked 10, allowed 5")));
}

TEST_F(ClientTest, CancelsARunningCall) {
  std::latch planned(1);
  service_.Play([&](const v1::AttendHeader&, ServerStream* stream) {
    stream->Write(Plan());
    ReadUnit(stream, 0);
    planned.count_down();
    v1::AttendStreamRequest request;
    stream->Read(&request);  // nothing comes: until the call is cancelled
    return grpc::Status::OK;
  });
  std::latch done(1);
  absl::Status status;
  const AttendCall call = client_->AttendAsync(Request(), [&](absl::StatusOr<AttendReport> report) {
    status = report.status();
    done.count_down();
  });
  planned.wait();
  call.Cancel();
  done.wait();
  service_.AwaitIdle();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  call.Cancel();  // harmless
}

TEST_F(ClientTest, LetsGoOfMemoryWhereverACallIsCancelled) {
  service_.Play([](const v1::AttendHeader&, ServerStream* stream) {
    stream->Write(Plan(2 * kUnitPayload));
    ReadUnit(stream, 0);
    return grpc::Status::OK;
  });
  for (int i = 0; i < 300; ++i) {  // at one moment or another of the call
    std::latch done(1);
    const AttendCall call = client_->AttendAsync(
        Request(), [&](const absl::StatusOr<AttendReport>&) { done.count_down(); });
    for (int spin = 0; spin < i % 50; ++spin) std::this_thread::yield();
    call.Cancel();
    done.wait();
  }
  service_.AwaitIdle();
}

TEST_F(ClientTest, EndsAtTheDeadline) {
  service_.Play([&](const v1::AttendHeader&, ServerStream* stream) {
    v1::AttendStreamRequest request;
    stream->Read(&request);
    return grpc::Status::OK;
  });
  AttendRequest request = Request();
  request.timeout = absl::Milliseconds(50);
  EXPECT_EQ(client_->Attend(request).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(ClientTest, SendsSmallRequestsInline) {
  service_.PlayUnary([](const v1::AttendRequest& request, v1::AttendResponse* response) {
    EXPECT_EQ(request.q().size(), 2u * kOutBytes);
    response->set_out(OutOf(0) + OutOf(1));
    response->set_lse(LseOf(0) + LseOf(1));
    response->mutable_trailer()->set_request_id("r2");
    return grpc::Status::OK;
  });
  const std::unique_ptr<Client> client = Connect(1 << 20);
  const auto report = client->Attend(Request());
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->request_id, "r2");
  EXPECT_TRUE(HasWholeAnswer());

  service_.PlayUnary([](const v1::AttendRequest&, v1::AttendResponse* response) {
    response->set_out("short");
    return grpc::Status::OK;
  });
  EXPECT_EQ(client->Attend(Request()).status().code(), absl::StatusCode::kInternal);
}

TEST_F(ClientTest, MayGoRightAfterItsLastCallAndWhileOneRuns) {
  service_.PlayUnary([](const v1::AttendRequest&, v1::AttendResponse* response) {
    response->set_out(OutOf(0) + OutOf(1));
    response->set_lse(LseOf(0) + LseOf(1));
    return grpc::Status::OK;
  });
  client_.reset();
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(Connect(1 << 20)->Attend(Request()).ok());
    std::latch done(1);
    // The client waits for its call.
    Connect(1 << 20)->AttendAsync(Request(), [&](const absl::StatusOr<AttendReport>& report) {
      EXPECT_TRUE(report.ok());
      done.count_down();
    });
    done.wait();
  }
}

TEST_F(ClientTest, RefusesBadRequestsItself) {
  AttendRequest request = Request();
  request.problem.head_dim = 12;
  EXPECT_EQ(client_->Attend(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = Request();
  request.k = nullptr;
  EXPECT_EQ(client_->Attend(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = Request();
  request.lse = nullptr;
  EXPECT_EQ(client_->Attend(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = Request();
  request.request_id = std::string(65, 'x');
  EXPECT_EQ(client_->Attend(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = Request();
  request.priority = 11;
  EXPECT_EQ(client_->Attend(request).status().code(), absl::StatusCode::kInvalidArgument);
  request = Request();
  request.problem.precision = Precision::kFp16;
  request.prequantize = true;
  EXPECT_EQ(client_->Attend(request).status().code(), absl::StatusCode::kInvalidArgument);
  AttentionProblem other = Problem();
  other.seqlen_k = 1000;
  const auto mask = BlockMask::FromPattern(other, BandPattern{});
  ASSERT_TRUE(mask.ok());
  request = Request();
  request.mask = &*mask;
  EXPECT_EQ(client_->Attend(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ClientTest, SaysThatNoServerIsThere) {
  server_->Shutdown(std::chrono::system_clock::now());
  const absl::Status status = Connect(0)->Attend(Request()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("cannot reach 127.0.0.1:" + std::to_string(port_)),
                    HasSubstr("is sage-server running?")));
}

TEST(ClientOptionsTest, RefusesBadOptions) {
  EXPECT_FALSE(Client::Connect({.target = ""}).ok());
  EXPECT_FALSE(Client::Connect({.default_timeout = absl::ZeroDuration()}).ok());
  EXPECT_FALSE(Client::Connect({.inline_limit_bytes = 4 << 20}).ok());
  EXPECT_FALSE(Client::Connect({.chunk_bytes = 0}).ok());
  EXPECT_FALSE(Client::Connect({.connections = 0}).ok());
  EXPECT_FALSE(Client::Connect({.connections = 17}).ok());
}

}  // namespace
}  // namespace sage
