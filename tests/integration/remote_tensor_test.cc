// The client library's resident tensors: what a user of client/remote_tensor.h relies on.
#include "client/remote_tensor.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sage/v1/tensors.grpc.pb.h"
#include "tests/support/problem_generator.h"
#include "tests/support/server_fixture.h"

namespace sage::testing {
namespace {

using ::testing::HasSubstr;

AttentionProblem Problem(Layout layout) {
  AttentionProblem problem;
  problem.batch = 2;
  problem.num_heads_q = 4;
  problem.num_heads_kv = 2;
  problem.seqlen_q = 300;
  problem.seqlen_k = 200;
  problem.head_dim = 64;
  problem.layout = layout;
  problem.return_lse = true;
  return problem;
}

class RemoteTensorTest : public ServerFixture {
 protected:
  void Start(Layout layout = Layout::kHnd, std::size_t inline_limit_bytes = 5 << 19,
             const server::ServerOptions& options = TestServerOptions()) {
    StartServer(options);
    Connect(target(), inline_limit_bytes);
    MakeProblem(layout);
  }

  void Connect(const std::string& target, std::size_t inline_limit_bytes = 5 << 19) {
    auto client = Client::Connect({.target = target, .inline_limit_bytes = inline_limit_bytes});
    ASSERT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
  }

  void MakeProblem(Layout layout) {
    problem_ = Problem(layout);
    data_ = MakeData(problem_, DataKind::kNormal, seed_);
    mask_dense_ = RandomDenseMask(problem_, 1, 4, 0.6, seed_);
    // The first tile of each head reads every block: none stays behind because nobody does.
    const std::int64_t blocks = problem_.blocks_k();
    for (std::int64_t head = 0; head < 4; ++head) {
      std::fill_n(mask_dense_.begin() + head * problem_.tiles_q() * blocks, blocks, 1);
    }
    mask_ = *BlockMask::FromDense(problem_, 1, 4, mask_dense_);
    reference_ = Reference(problem_, data_, mask_dense_, 1, 4);
  }

  RemoteTensor MustPut(TensorRole role, const std::vector<std::byte>& data,
                       const PutOptions& options = {}) {
    auto tensor = client_->Put(role, problem_, data.data(), options);
    EXPECT_TRUE(tensor.ok()) << tensor.status();
    return *std::move(tensor);
  }

  // All of it travels.
  AttendRequest Request(PoisonedOutput& output) const {
    AttendRequest request;
    request.problem = problem_;
    request.q = data_.q.data();
    request.k = data_.k.data();
    request.v = data_.v.data();
    request.mask = &mask_;
    request.out = output.out.data();
    request.lse = output.lse.data();
    return request;
  }

  ::testing::AssertionResult Right(const PoisonedOutput& output) const {
    const Comparison comparison = Compare(problem_, output, reference_);
    // Written so that NaN fails.
    if (!(comparison.out.relative_l2 <= RelativeL2Limit(problem_.precision, problem_.dtype)) ||
        !(comparison.lse_error <= LseLimit(problem_.precision))) {
      return ::testing::AssertionFailure() << "relative L2 " << comparison.out.relative_l2
                                           << ", lse off by " << comparison.lse_error;
    }
    return EmptyRowsAreExact(problem_, output, reference_);
  }

  const std::uint64_t seed_ = std::random_device()();
  const ::testing::ScopedTrace trace_{__FILE__, __LINE__, Describe(Problem(Layout::kHnd), seed_)};
  AttentionProblem problem_;
  ProblemData data_;
  std::vector<std::uint8_t> mask_dense_;
  BlockMask mask_;
  ReferenceResult reference_;
  std::unique_ptr<Client> client_;
};

// Any choice of what stays, as one message or as a stream: the same bits, and no byte of what stays
// travels.
TEST_F(RemoteTensorTest, StandInForAnyOperand) {
  for (const std::size_t inline_limit : {std::size_t{0}, std::size_t{5} << 19}) {
    SCOPED_TRACE(inline_limit);
    if (inline_limit == 0) {
      server::ServerOptions options = TestServerOptions();
      options.unit_bytes = 1 << 16;
      options.window_bytes = 1 << 17;  // several windows of units
      Start(Layout::kNhd, inline_limit, options);
    } else {
      Connect(target(), inline_limit);
    }
    const RemoteTensor q = MustPut(TensorRole::kQ, data_.q);
    const RemoteTensor k = MustPut(TensorRole::kK, data_.k);
    const RemoteTensor v = MustPut(TensorRole::kV, data_.v);
    const auto mask = client_->PutMask(problem_, &mask_);
    const auto out = client_->PutOutput(problem_);
    ASSERT_TRUE(mask.ok() && out.ok()) << mask.status() << out.status();
    PoisonedOutput want(problem_);
    ASSERT_TRUE(client_->Attend(Request(want)).ok());
    ASSERT_TRUE(Right(want));
    for (int which = 0; which < 32; ++which) {
      SCOPED_TRACE(which);
      PoisonedOutput got(problem_);
      AttendRequest request = Request(got);
      if ((which & 1) != 0) request.q = nullptr, request.resident.q = &q;
      if ((which & 2) != 0) request.k = nullptr, request.resident.k = &k;
      if ((which & 4) != 0) request.v = nullptr, request.resident.v = &v;
      if ((which & 8) != 0) request.mask = std::monostate(), request.resident.mask = &*mask;
      if ((which & 16) != 0) request.out = nullptr, request.resident.out = &*out;
      int units_done = 0;
      request.on_unit_done = [&](std::int64_t done, std::int64_t) { units_done = done; };
      const auto report = client_->Attend(request);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_GT(units_done, 0);
      EXPECT_EQ(report->bytes_in, ((which & 1) != 0 ? 0 : data_.q.size()) +
                                      ((which & 2) != 0 ? 0 : data_.k.size()) +
                                      ((which & 4) != 0 ? 0 : data_.v.size()));
      if ((which & 16) != 0) {
        ASSERT_EQ(out->bytes(), got.out.size());
        const absl::Status status = out->Get(got.out.data());
        ASSERT_TRUE(status.ok()) << status;
      }
      EXPECT_EQ(got.out, want.out);
      EXPECT_EQ(got.lse, want.lse);
    }
  }
}

// Long sequences of queries, few keys: two stripes where queries or outputs travel.
class StripedRemoteTensorTest : public RemoteTensorTest {
 protected:
  void MakeLongProblem(Layout layout, std::int64_t batch, std::int64_t num_heads_q,
                       std::int64_t num_heads_kv) {
    problem_ = Problem(layout);
    problem_.batch = batch;
    problem_.num_heads_q = num_heads_q;
    problem_.num_heads_kv = num_heads_kv;
    problem_.head_dim = 128;
    problem_.seqlen_q = (64 << 10) / (batch * num_heads_q);
    problem_.is_causal = true;
    data_ = MakeData(problem_, DataKind::kNormal, seed_);
    mask_ = *BlockMask::FromDense(problem_, batch, num_heads_q,
                                  RandomDenseMask(problem_, batch, num_heads_q, 0.6, seed_));
  }
};

TEST_F(StripedRemoteTensorTest, BitsDoNotDependOnStripes) {
  StartServer();
  struct Cut {
    Layout layout;
    std::int64_t batch, heads_q, heads_kv;
  };
  for (const Cut& cut :
       {Cut{Layout::kHnd, 1, 8, 4}, Cut{Layout::kHnd, 2, 4, 1}, Cut{Layout::kNhd, 1, 8, 1}}) {
    MakeLongProblem(cut.layout, cut.batch, cut.heads_q, cut.heads_kv);
    SCOPED_TRACE(Describe(problem_, seed_));
    auto one = Client::Connect({.target = target(), .connections = 1});
    ASSERT_TRUE(one.ok()) << one.status();
    PoisonedOutput want(problem_);
    const auto whole = (*one)->Attend(Request(want));
    ASSERT_TRUE(whole.ok()) << whole.status();

    Connect(target());
    const RemoteTensor q = MustPut(TensorRole::kQ, data_.q);
    const RemoteTensor k = MustPut(TensorRole::kK, data_.k);
    const RemoteTensor v = MustPut(TensorRole::kV, data_.v);
    const auto mask = client_->PutMask(problem_, &mask_);
    const auto out = client_->PutOutput(problem_);
    ASSERT_TRUE(mask.ok() && out.ok()) << mask.status() << out.status();
    enum Kept : std::uint8_t { kKeys, kKeysAndMask, kAllInputs, kAllButQ };
    for (const Kept kept : {kKeys, kKeysAndMask, kAllInputs, kAllButQ}) {
      SCOPED_TRACE(static_cast<int>(kept));
      PoisonedOutput got(problem_);
      AttendRequest request = Request(got);
      request.k = request.v = nullptr;
      request.resident.k = &k;
      request.resident.v = &v;
      if (kept != kKeys) request.mask = std::monostate(), request.resident.mask = &*mask;
      if (kept == kAllInputs) request.q = nullptr, request.resident.q = &q;
      if (kept == kAllButQ) request.out = nullptr, request.resident.out = &*out;
      const std::uint64_t before = client_->GetStatistics()->requests_ok();
      const auto report = client_->Attend(request);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(client_->GetStatistics()->requests_ok() - before, 2U);
      EXPECT_EQ(report->bytes_in, kept == kAllInputs ? 0 : data_.q.size());
      EXPECT_NEAR(report->block_density, whole->block_density, 1e-9);
      if (kept == kAllButQ) {
        ASSERT_TRUE(out->Get(got.out.data()).ok());
      }
      EXPECT_TRUE(got.out == want.out);
      EXPECT_TRUE(got.lse == want.lse);
    }
  }
}

// With lse left out, the units of a resident output are answered by nothing but their number.
TEST_F(RemoteTensorTest, AnOutputThatStaysKeepsTheWindowMoving) {
  server::ServerOptions options = TestServerOptions();
  options.unit_bytes = options.window_bytes = 1;
  Start(Layout::kHnd, 0, options);
  problem_.return_lse = false;
  const auto out = client_->PutOutput(problem_);
  ASSERT_TRUE(out.ok()) << out.status();
  PoisonedOutput output(problem_);
  AttendRequest request = Request(output);
  request.out = nullptr;
  request.lse = nullptr;
  request.resident.out = &*out;
  const auto report = client_->Attend(request);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes_out, 0u);
  ASSERT_TRUE(out->Get(output.out.data()).ok());
  EXPECT_LE(Compare(problem_, output, reference_).out.relative_l2,
            RelativeL2Limit(problem_.precision, problem_.dtype));
}

TEST_F(RemoteTensorTest, ComeBack) {
  Start();
  const RemoteTensor k = MustPut(TensorRole::kK, data_.k);
  std::vector<std::byte> back(k.bytes());
  ASSERT_TRUE(k.Get(back.data()).ok());
  EXPECT_EQ(back, data_.k);
}

TEST_F(RemoteTensorTest, AreReleasedWithTheirObject) {
  Start();
  {
    RemoteTensor first = MustPut(TensorRole::kK, data_.k);
    const RemoteTensor moved = std::move(first);
    RemoteTensor second = MustPut(TensorRole::kV, data_.v);
    EXPECT_EQ(client_->GetStatistics()->tensors(), 2u);
    second = MustPut(TensorRole::kQ, data_.q);
    client_.reset();  // they may outlive it
    EXPECT_GE(server().held().tensors, 2u);
  }
  EXPECT_EQ(AwaitIdle(), server::Server::Held{});
}

TEST_F(RemoteTensorTest, LeasesAreRenewed) {
  Start();
  const RemoteTensor k =
      MustPut(TensorRole::kK, data_.k, {.lease = absl::Seconds(2), .placement_group = {}});
  const auto stub = v1::Tensors::NewStub(NewChannel());
  v1::StatRequest request;
  *request.mutable_handle() = k.handle();
  double least = 3;
  int renewals = 0;
  while (renewals < 2) {
    grpc::ClientContext context;
    v1::StatResponse response;
    ASSERT_TRUE(stub->Stat(&context, request, &response).ok());
    const double left =
        response.lease_remaining().seconds() + 1e-9 * response.lease_remaining().nanos();
    if (left > least) ++renewals;
    least = left;
  }
  EXPECT_EQ(client_->GetStatistics()->tensor_leases_expired(), 0u);
}

TEST_F(RemoteTensorTest, MistakesAreToldBeforeAnythingTravels) {
  Start();
  EXPECT_THAT(std::string(client_->Put(TensorRole::kK, problem_, nullptr).status().message()),
              HasSubstr("data: a null pointer"));
  EXPECT_THAT(std::string(client_->PutMask(problem_, std::monostate()).status().message()),
              HasSubstr("mask: none"));
  const RemoteTensor k = MustPut(TensorRole::kK, data_.k);
  const auto refused = [&](auto change, const char* message) {
    PoisonedOutput output(problem_);
    AttendRequest request = Request(output);
    change(request);
    const absl::Status status = client_->Attend(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  refused([&](AttendRequest& r) { r.resident.k = &k; }, "k: given, and resident as well");
  refused([&](AttendRequest& r) { r.k = nullptr; }, "k: a null pointer, and not resident");
  refused([&](AttendRequest& r) { r.resident.mask = &k; }, "mask: given, and resident as well");
  refused(
      [&](AttendRequest& r) {
        r.k = nullptr;
        r.resident.k = &k;
        r.prequantize = true;
      },
      "prequantize: not with a resident q or k");
  refused(
      [&](AttendRequest& r) {
        r.v = nullptr;
        r.resident.v = &k;
      },
      "header.v.handle: got a tensor of role k, allowed v");
}

// A server that can be stopped and started again at one address.
class RestartedServer : public StripedRemoteTensorTest {
 protected:
  RestartedServer() {
    options_.listen = {"unix:" + (std::filesystem::temp_directory_path() /
                                  ("sage_restart_" + std::to_string(seed_) + ".sock"))
                                     .string()};
  }

  void StartOne() {
    auto server = server::Server::Start(options_, TestBackends());
    ASSERT_TRUE(server.ok()) << server.status();
    one_ = *std::move(server);
  }
  void StopOne() { one_.reset(); }

  // Until the connection is there again.
  template <typename Call>
  absl::Status Retried(Call call) {
    const absl::Time give_up = absl::Now() + absl::Seconds(60);
    absl::Status status = call();
    while (absl::IsUnavailable(status) && absl::Now() < give_up) status = call();
    return status;
  }

  server::ServerOptions options_ = TestServerOptions();
  std::unique_ptr<server::Server> one_;
};

TEST_F(RestartedServer, GetsItsTensorsAgain) {
  StartOne();
  Connect(options_.listen.front());
  MakeProblem(Layout::kHnd);
  {
    const RemoteTensor k = MustPut(TensorRole::kK, data_.k);
    const RemoteTensor v = MustPut(TensorRole::kV, data_.v);
    const auto out = client_->PutOutput(problem_);
    ASSERT_TRUE(out.ok()) << out.status();
    const std::string first_server = k.handle().server_id();
    for (int round = 0; round < 2; ++round) {
      PoisonedOutput output(problem_);
      AttendRequest request = Request(output);
      request.k = request.v = nullptr;
      request.out = nullptr;
      request.resident.k = &k;
      request.resident.v = &v;
      request.resident.out = &*out;
      absl::Status status = Retried([&] { return client_->Attend(request).status(); });
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_TRUE(out->Get(output.out.data()).ok());
      EXPECT_TRUE(Right(output));
      StopOne();
      StartOne();
      // What was written is lost, and that is said.
      status = Retried([&] { return out->Get(output.out.data()); });
      EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
    }
    EXPECT_NE(k.handle().server_id(), first_server);
  }
  client_.reset();
}

TEST_F(RestartedServer, GetsTheTensorsOfStripedRequestsAgain) {
  StartOne();
  Connect(options_.listen.front());
  MakeLongProblem(Layout::kHnd, 1, 8, 4);
  {
    const RemoteTensor k = MustPut(TensorRole::kK, data_.k);
    const RemoteTensor v = MustPut(TensorRole::kV, data_.v);
    const auto mask = client_->PutMask(problem_, &mask_);
    ASSERT_TRUE(mask.ok()) << mask.status();
    const std::string first_server = k.handle().server_id();
    std::vector<PoisonedOutput> outputs;
    for (int round = 0; round < 2; ++round) {
      AttendRequest request = Request(outputs.emplace_back(problem_));
      request.k = request.v = nullptr;
      request.mask = std::monostate();
      request.resident.k = &k;
      request.resident.v = &v;
      request.resident.mask = &*mask;
      const absl::Status status = Retried([&] { return client_->Attend(request).status(); });
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_GE(client_->GetStatistics()->requests_ok(), 2U);  // more where one came too early
      StopOne();
      StartOne();
    }
    EXPECT_NE(k.handle().server_id(), first_server);
    EXPECT_TRUE(outputs[0].out == outputs[1].out);
    EXPECT_TRUE(outputs[0].lse == outputs[1].lse);
  }
  client_.reset();
}

TEST_F(RestartedServer, GetsTheTensorsOfAsyncRequestsAgain) {
  StartOne();
  Connect(options_.listen.front());
  MakeProblem(Layout::kHnd);
  {
    const RemoteTensor k = MustPut(TensorRole::kK, data_.k);
    const RemoteTensor v = MustPut(TensorRole::kV, data_.v);
    const std::string first_server = k.handle().server_id();
    StopOne();
    StartOne();
    constexpr int kCalls = 8;  // that all find out
    std::vector<PoisonedOutput> outputs(kCalls, PoisonedOutput(problem_));
    const auto attend_all = [&] {
      // Shared, since the library may still be leaving set_value() when the answer is here.
      const auto ended = std::make_shared<std::vector<std::promise<absl::Status>>>(kCalls);
      for (int i = 0; i < kCalls; ++i) {
        AttendRequest request = Request(outputs[i]);
        request.k = request.v = nullptr;
        request.resident.k = &k;
        request.resident.v = &v;
        client_->AttendAsync(request, [ended, i](const absl::StatusOr<AttendReport>& report) {
          (*ended)[i].set_value(report.status());
        });
      }
      absl::Status all;
      for (std::promise<absl::Status>& one : *ended) all.Update(one.get_future().get());
      return all;
    };
    const absl::Status status = Retried(attend_all);
    ASSERT_TRUE(status.ok()) << status;
    for (const PoisonedOutput& output : outputs) EXPECT_TRUE(Right(output));
    EXPECT_NE(k.handle().server_id(), first_server);
    EXPECT_EQ(client_->GetStatistics()->tensors(), 2U);
  }
  client_.reset();
}

// Nobody need attend: the thread that renews finds out.
TEST_F(RestartedServer, GetsItsInputsAgainInTheBackground) {
  StartOne();
  Connect(options_.listen.front());
  MakeProblem(Layout::kHnd);
  {
    const RemoteTensor k =
        MustPut(TensorRole::kK, data_.k, {.lease = absl::Milliseconds(200), .placement_group = {}});
    const std::string first_server = k.handle().server_id();
    StopOne();
    StartOne();
    const absl::Time give_up = absl::Now() + absl::Seconds(60);
    while (k.handle().server_id() == first_server && absl::Now() < give_up) {
      std::this_thread::yield();
    }
    EXPECT_NE(k.handle().server_id(), first_server);
    std::vector<std::byte> back(k.bytes());
    const absl::Status status = k.Get(back.data());
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(back, data_.k);
  }
  client_.reset();
}

}  // namespace
}  // namespace sage::testing
