// Load steps in real time: against a synthetic server whose latencies are known, and a real one
// that stalls.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/cli/load/client_environment.h"
#include "client/cli/load/load_step.h"
#include "client/cli/load/request_mix.h"
#include "client/client.h"
#include "gmock/gmock.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "sage/v1/attention.grpc.pb.h"
#include "tests/support/faulty_server_fixture.h"

namespace sage::testing {
namespace {

using namespace std::chrono_literals;
using cli::ClientEnvironment;
using cli::LoadStep;
using cli::MixedInputs;
using cli::RunStep;
using cli::StepResult;

std::vector<MixedInputs> SmallRequests() {
  cli::MixEntry entry;
  entry.generated.shape = {
      .num_heads_q = 1, .num_heads_kv = 1, .seqlen_q = 64, .seqlen_k = 64, .head_dim = 64};
  return cli::MakeInputs({entry}, 0).value();
}

std::unique_ptr<Client> Connect(const std::string& target) {
  auto client = Client::Connect({.target = target});
  EXPECT_TRUE(client.ok()) << client.status();
  return *std::move(client);
}

// Answers zeros: of each ten requests the last one after 150 ms, all others after 30 ms.
class SyntheticService : public v1::Attention::Service {
 public:
  static constexpr auto kUsual = 30ms;
  static constexpr auto kSlow = 150ms;

  grpc::Status Attend(grpc::ServerContext*, const v1::AttendRequest* request,
                      v1::AttendResponse* response) override {
    // The latency is what this server is for; nobody relies on when it ends.
    std::this_thread::sleep_for(++calls_ % 10 == 0 ? kSlow : kUsual);
    response->set_out(std::string(request->q().size(), '\0'));
    return grpc::Status::OK;
  }

 private:
  std::atomic<int> calls_ = 0;
};

TEST(LoadTest, StatesTheLatenciesOfASyntheticServer) {
  SyntheticService service;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_NE(server, nullptr);
  const std::vector<MixedInputs> mix = SmallRequests();
  const std::vector<std::unique_ptr<Client>> clients = [&] {
    std::vector<std::unique_ptr<Client>> made;
    made.push_back(Connect("127.0.0.1:" + std::to_string(port)));
    made.push_back(Connect("127.0.0.1:" + std::to_string(port)));
    return made;
  }();
  const std::atomic<bool> stop = false;
  ClientEnvironment environment({clients[0].get(), clients[1].get()}, &mix, 1, &stop);
  LoadStep step;
  step.arrivals = cli::ArrivalKind::kConstant;
  step.rate = 100;
  step.count = 200;
  const StepResult result = RunStep(step, &environment);
  EXPECT_EQ(result.ok, 200);
  EXPECT_EQ(result.failed, 0);
  // A busy machine makes answers later, never earlier: of the upper bounds only those are stated
  // that leave it much room.
  EXPECT_GE(result.latency.min(), SyntheticService::kUsual);
  EXPECT_GE(result.latency.Quantile(0.91), SyntheticService::kSlow);
  EXPECT_GE(result.latency.CountUpTo(SyntheticService::kSlow), 100);
  EXPECT_LE(result.latency.CountUpTo(SyntheticService::kSlow - 1ms), 180);
  EXPECT_GE(result.measured, 2s);
}

TEST(LoadTest, StatesErrorsByCode) {
  const std::vector<MixedInputs> mix = SmallRequests();
  const std::unique_ptr<Client> client = Connect("127.0.0.1:1");
  const std::atomic<bool> stop = false;
  ClientEnvironment environment({client.get()}, &mix, 1, &stop);
  LoadStep step;
  step.concurrency = 2;
  step.count = 10;
  const StepResult result = RunStep(step, &environment);
  EXPECT_EQ(result.failed, 10);
  EXPECT_EQ(result.errors.at("UNAVAILABLE").count, 10);
}

class ResidentLoadTest : public FaultyServerFixture {};

TEST_F(ResidentLoadTest, SendsQueriesAlone) {
  StartFaultyServer();
  std::vector<MixedInputs> mix = SmallRequests();
  mix[0].resident_kv = true;
  const std::unique_ptr<Client> clients[] = {Connect(target()), Connect(target())};
  const std::atomic<bool> stop = false;
  ClientEnvironment environment({clients[0].get(), clients[1].get()}, &mix, 1, &stop);
  const absl::Status put = environment.PutResident();
  ASSERT_TRUE(put.ok()) << put;
  LoadStep step;
  step.concurrency = 2;
  step.count = 10;
  const StepResult result = RunStep(step, &environment);
  EXPECT_EQ(result.ok, 10);
  EXPECT_EQ(result.all_bytes_in, 10u * 64 * 64 * 2);
}

class StallingServerTest : public FaultyServerFixture {};

TEST_F(StallingServerTest, OpenLoopStatesWhatUsersWaitDuringAStall) {
  StartFaultyServer();
  const std::vector<MixedInputs> mix = SmallRequests();
  const std::unique_ptr<Client> client = Connect(target());
  const std::atomic<bool> stop = false;
  ClientEnvironment environment({client.get()}, &mix, 1, &stop);
  LoadStep step;
  step.arrivals = cli::ArrivalKind::kConstant;
  step.rate = 50;
  step.duration = 4s;  // leaves a late stall room
  std::chrono::nanoseconds held{0};
  std::chrono::nanoseconds released{0};
  const StepResult result = RunStep(step, &environment, [&](const cli::LiveFigures&) {
    if (held == 0ns) {
      HoldAttends();
      held = environment.Now();
    } else if (released == 0ns && environment.Now() - held >= 750ms) {
      released = environment.Now();
      ReleaseAttends();
    }
  });
  ASSERT_NE(released, 0ns);
  EXPECT_EQ(result.failed, 0);
  EXPECT_GE(result.ok, 198);
  // What was due in the first half of the stall waited for its second half at least.
  const auto half = (released - held) / 2;
  const double due_in_half = step.rate * std::chrono::duration<double>(half).count();
  EXPECT_GE(static_cast<double>(result.ok - result.latency.CountUpTo(half)), due_in_half - 3);
}

}  // namespace
}  // namespace sage::testing
