// Draining: health says so, nothing that runs is lost, nothing new is taken.
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "server/run_server.h"
#include "tests/support/child_process.h"
#include "tests/support/faulty_server_fixture.h"
#include "tests/support/plain_client.h"
#include "tests/support/wire_error.h"

namespace sage::testing {
namespace {

using grpc::StatusCode;

// HealthCheckResponse { status: SERVING } and { status: NOT_SERVING }.
const std::string kServing("\x08\x01", 2);
const std::string kNotServing("\x08\x02", 2);

class Draining : public FaultyServerFixture {
 protected:
  void Start(const server::ServerOptions& options = TestServerOptions()) {
    StartFaultyServer(options);
    channel_ = NewChannel();
    stub_ = v1::Attention::NewStub(channel_);
  }

  // The answer of grpc.health.v1 for the server as a whole, empty where the call failed.
  std::string Health() {
    const RawAnswer answer = RawExchange(channel_, "/grpc.health.v1.Health/Check", {""});
    return answer.messages.empty() ? "" : answer.messages.front();
  }

  // Tries new requests until one is refused.
  grpc::Status AwaitRefusal() {
    while (true) {
      PlainStream stream(*stub_, sample_);
      if (!stream.Open()) return stream.Finish();
      stream.Cancel();
      stream.Finish();
    }
  }

  const Sample sample_ = MakeSample(SmallProblem(), 1);
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Attention::Stub> stub_;
};

TEST_F(Draining, LosesNoRequestAndTakesNoNewOne) {
  Start();
  EXPECT_EQ(Health(), kServing);
  PlainStream in_mid_payload(*stub_, sample_);
  ASSERT_TRUE(in_mid_payload.Open());
  const auto messages = PayloadMessages(sample_, in_mid_payload.accepted(), 1000);
  for (std::size_t i = 0; i < 50; ++i) ASSERT_TRUE(in_mid_payload.Send(messages[i]));
  HoldAttends();
  PlainStream computing(*stub_, sample_);
  ASSERT_TRUE(computing.Open());
  for (const auto& message : messages) ASSERT_TRUE(computing.Send(message));
  PlainStream accepted(*stub_, sample_);
  ASSERT_TRUE(accepted.Open());

  bool peaceful = false;
  std::thread drain([&] { peaceful = server().Drain(); });
  while (Health() == kServing) std::this_thread::yield();
  EXPECT_EQ(Health(), kNotServing);
  EXPECT_TRUE(IsError(AwaitRefusal(), StatusCode::UNAVAILABLE,
                      std::string("the server is draining; try another"), Details::kRetry));
  grpc::ClientContext context;
  v1::AttendResponse response;
  EXPECT_TRUE(IsError(stub_->Attend(&context, UnaryRequest(sample_), &response),
                      StatusCode::UNAVAILABLE, std::string("the server is draining; try another"),
                      Details::kRetry));

  ReleaseAttends();
  for (std::size_t i = 50; i < messages.size(); ++i) ASSERT_TRUE(in_mid_payload.Send(messages[i]));
  for (const auto& message : messages) ASSERT_TRUE(accepted.Send(message));
  EXPECT_TRUE(in_mid_payload.FinishesRightly());
  EXPECT_TRUE(computing.FinishesRightly());
  EXPECT_TRUE(accepted.FinishesRightly());
  drain.join();
  EXPECT_TRUE(peaceful);

  grpc::ClientContext late;
  EXPECT_EQ(v1::Attention::NewStub(NewChannel())
                ->Attend(&late, UnaryRequest(sample_), &response)
                .error_code(),
            StatusCode::UNAVAILABLE);
}

// Whenever a call arrives, it is served or told to try another server: a client that repeats what
// was UNAVAILABLE loses nothing.
TEST_F(Draining, NoCallIsCancelled) {
  constexpr int kServers = 4;
  constexpr int kCallers = 4;
  for (int round = 0; round < kServers; ++round) {
    auto one = server::Server::Start(TestServerOptions(), TestBackends());
    ASSERT_TRUE(one.ok()) << one.status();
    const std::string address = "127.0.0.1:" + std::to_string((*one)->port());
    std::atomic<int> served = 0;
    std::atomic<bool> drained = false;
    std::vector<std::thread> callers;
    for (int i = 0; i < kCallers; ++i) {
      callers.emplace_back([&] {
        const auto stub = v1::Attention::NewStub(
            grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
        while (!drained) {
          grpc::ClientContext context;
          v1::AttendResponse response;
          const grpc::Status status = stub->Attend(&context, UnaryRequest(sample_), &response);
          if (status.ok()) ++served;
          EXPECT_TRUE(status.ok() || status.error_code() == StatusCode::UNAVAILABLE)
              << status.error_code() << ": " << status.error_message();
        }
      });
    }
    while (served < 2 * kCallers) std::this_thread::yield();
    EXPECT_TRUE((*one)->Drain());
    drained = true;
    for (std::thread& caller : callers) caller.join();
  }
  Start();
}

TEST_F(Draining, EndsWhatOutlastsItsTimeout) {
  server::ServerOptions options = TestServerOptions();
  options.drain_timeout = std::chrono::milliseconds(50);
  Start(options);
  PlainStream idle(*stub_, sample_);
  ASSERT_TRUE(idle.Open());
  EXPECT_FALSE(server().Drain());
  EXPECT_EQ(idle.Finish().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_FALSE(server().Drain()) << "a second drain says the same";
}

TEST_F(Draining, ServesOnDuringItsDelay) {
  server::ServerOptions options = TestServerOptions();
  options.drain_delay = std::chrono::seconds(2);
  Start(options);
  bool peaceful = false;
  std::thread drain([&] { peaceful = server().Drain(); });
  while (Health() == kServing) std::this_thread::yield();
  EXPECT_TRUE(StreamsRightly(*stub_, sample_));
  EXPECT_TRUE(AttendsRightly(*stub_, sample_));
  drain.join();
  EXPECT_TRUE(peaceful);
}

TEST_F(Draining, IsNothingThatAClientOfSeveralServersNotices) {
  server::ServerOptions options = TestServerOptions();
  options.drain_delay = std::chrono::seconds(1);
  Start(options);
  const auto other = server::Server::Start(TestServerOptions(), TestBackends());
  ASSERT_TRUE(other.ok()) << other.status();
  const auto client =
      Client::Connect({.target = absl::StrCat("ipv4:", target(), ",127.0.0.1:", (*other)->port())});
  ASSERT_TRUE(client.ok()) << client.status();
  const auto asked = [&client] {
    const auto info = (*client)->GetInfo(absl::Seconds(20));
    EXPECT_TRUE(info.ok()) << info.status();
    return info.ok() ? info->server_id() : "";
  };
  for (std::set<std::string> answered; answered.size() < 2 && !HasFailure();) {
    answered.insert(asked());
  }

  std::atomic<bool> drained = false;
  std::thread drain([&] { drained = server().Drain(); });
  while (!drained && !HasFailure()) asked();
  drain.join();
  const std::string left = asked();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(asked(), left);

  const AttentionProblem problem = SmallProblem();
  const auto tensor = (*client)->Put(TensorRole::kK, problem, sample_.data.k.data());
  EXPECT_EQ(tensor.status().code(), absl::StatusCode::kFailedPrecondition) << tensor.status();
  EXPECT_EQ((*client)->GetStatistics().status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE((*other)->Drain());
}

TEST_F(Draining, OfAnIdleServerIsQuick) {
  server::ServerOptions options = TestServerOptions();
  options.metrics_listen = "127.0.0.1:0";
  Start(options);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(server().Drain());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1500));
  EXPECT_TRUE(server().Drain());
}

TEST_F(Draining, ALostDeviceEndsHealthAndTheServer) {
  Start();
  EXPECT_TRUE(AttendsRightly(*stub_, sample_));
  EXPECT_EQ(Health(), kServing);
  faults.lost = true;
  EXPECT_EQ(server().AwaitEnd(), absl::UnavailableError("planted: the device is lost"));
  EXPECT_EQ(Health(), kNotServing);
  EXPECT_TRUE(IsError(AwaitRefusal(), StatusCode::UNAVAILABLE,
                      std::string("the server has lost its device; try another"), Details::kRetry));
  EXPECT_TRUE(server().Drain()) << "no request is left behind";
}

enum class Loss { kWhileItServes, kWhileItDrains };

// The process of RunServer(), as sage-server runs it, on a device that is lost.
[[noreturn]] void RunOnADeviceThatIsLost(Loss loss) {
  static Faults faults;  // _Exit() leaves threads behind that look at it
  static const ScratchFolder folder;
  server::ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.threads = 1;
  options.port_file = folder.File("port");
  options.drain_delay = std::chrono::seconds(loss == Loss::kWhileItDrains ? 2 : 0);
  std::thread([&, loss] {
    // The server takes the signal.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::string port;
    while ((port = ReadFile(options.port_file)).empty()) std::this_thread::yield();
    port.pop_back();  // the end of its line
    const auto channel =
        grpc::CreateChannel("127.0.0.1:" + port, grpc::InsecureChannelCredentials());
    const auto stub = v1::Attention::NewStub(channel);
    const bool served{AttendsRightly(*stub, MakeSample(SmallProblem(), 1))};
    std::fputs(served ? "served\n" : "not served\n", stderr);
    if (loss == Loss::kWhileItDrains) {
      kill(getpid(), SIGTERM);
      const auto health = [&channel] {
        return RawExchange(channel, "/grpc.health.v1.Health/Check", {""}).messages;
      };
      while (health() == std::vector<std::string>{kServing}) std::this_thread::yield();
    }
    faults.lost = true;
  }).detach();
  std::exit(server::RunServer(options, [] {
    std::vector<std::unique_ptr<Backend>> backends;
    backends.push_back(MakeFaultyBackend(*CreateCpuBackend({.num_threads = 1}), faults));
    return absl::StatusOr<std::vector<std::unique_ptr<Backend>>>(std::move(backends));
  }));
}

TEST(DrainingDeathTest, ALostDeviceEndsTheProcessForItsSupervisor) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(RunOnADeviceThatIsLost(Loss::kWhileItServes), ::testing::ExitedWithCode(1),
              "^served\n$");
}

TEST(DrainingDeathTest, ADeviceLostDuringADrainIsNoPeacefulEnd) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(RunOnADeviceThatIsLost(Loss::kWhileItDrains), ::testing::ExitedWithCode(1),
              "^served\n$");
}

TEST_F(Draining, EndsWhereItIsAskedTo) {
  Start();
  std::thread asking([&] { server().End(); });
  EXPECT_TRUE(server().AwaitEnd().ok());
  asking.join();
  EXPECT_EQ(Health(), kServing) << "until it drains";
}

TEST_F(Draining, AnOldConnectionMakesPlaceForANewOneAndLosesNothing) {
  server::ServerOptions options = TestServerOptions();
  options.max_connection_age = std::chrono::milliseconds(200);
  Start(options);
  const auto patience = std::chrono::system_clock::now() + std::chrono::seconds(30);
  ASSERT_TRUE(channel_->WaitForConnected(patience));
  PlainStream running(*stub_, sample_);
  ASSERT_TRUE(running.Open());
  ASSERT_TRUE(channel_->WaitForStateChange(GRPC_CHANNEL_READY, patience)) << "it never gets old";
  for (const auto& message : PayloadMessages(sample_, running.accepted(), 1 << 18)) {
    ASSERT_TRUE(running.Send(message));
  }
  EXPECT_TRUE(running.FinishesRightly());
  EXPECT_TRUE(AttendsRightly(*stub_, sample_)) << "over a new connection";
}

TEST_F(Draining, HealthOfAnUnknownServiceIsNotFound) {
  Start();
  // HealthCheckRequest { service: "nobody" }
  const RawAnswer answer =
      RawExchange(channel_, "/grpc.health.v1.Health/Check", {std::string("\x0a\x06nobody")});
  EXPECT_EQ(answer.status.error_code(), StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace sage::testing
