// The sage-server program itself: its command line, configuration file, signals, sockets and exit
// statuses.
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "sage/v1/server.grpc.pb.h"
#include "tests/support/certificate_authority.h"
#include "tests/support/child_process.h"
#include "tests/support/plain_client.h"

namespace sage::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::shared_ptr<grpc::Channel> Connect(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

// A sage-server on a free port, up once constructed.
class RunningServer {
 public:
  explicit RunningServer(std::vector<std::string> more = {},
                         const std::string& listen = "127.0.0.1:0")
      : process_(SAGE_SERVER_PROGRAM, Arguments(std::move(more), listen)) {
    EXPECT_TRUE(process_.Await([&] { return !ReadFile(PortFile()).empty(); })) << process_.err();
    target_ = "127.0.0.1:" + std::to_string(std::atoi(ReadFile(PortFile()).c_str()));
  }

  ChildProcess& process() { return process_; }
  const std::string& target() const { return target_; }

 private:
  std::string PortFile() const { return folder_.File("port"); }
  std::vector<std::string> Arguments(std::vector<std::string> more, const std::string& listen) {
    for (const std::string& word :
         {std::string("--backend"), std::string("cpu"), std::string("--threads"), std::string("2"),
          std::string("--port-file"), PortFile()}) {
      more.push_back(word);
    }
    if (!listen.empty()) more.insert(more.end(), {"--listen", listen});
    return more;
  }

  const ScratchFolder folder_;
  ChildProcess process_;
  std::string target_;
};

v1::ServerInfo InfoOf(const std::string& target) {
  v1::ServerInfo info;
  grpc::ClientContext context;
  EXPECT_TRUE(v1::Server::NewStub(Connect(target))->GetInfo(&context, {}, &info).ok());
  return info;
}

// Resident size of a process, from a line like "VmRSS:    1234 kB".
std::int64_t ResidentBytes(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("VmRSS:", 0) == 0) return std::stoll(line.substr(6)) << 10;
  }
  ADD_FAILURE() << "no VmRSS of process " << pid;
  return 0;
}

class ServerProgram : public ::testing::Test {
 protected:
  // Runs the program to its end, which it must reach by itself.
  void ExpectExit(const std::vector<std::string>& arguments, int status,
                  const ::testing::Matcher<std::string>& err) {
    ChildProcess process(SAGE_SERVER_PROGRAM, arguments);
    EXPECT_EQ(process.Wait(), status) << process.err();
    EXPECT_THAT(process.err(), err);
  }

  std::string WriteConfig(const std::string& text) {
    std::ofstream(folder_.File("sage.conf")) << text;
    return folder_.File("sage.conf");
  }

  const ScratchFolder folder_;
  const Sample sample_ = MakeSample(SmallProblem(), 1);
};

TEST_F(ServerProgram, ServesUntilItIsTold) {
  RunningServer server;
  const auto stub = v1::Attention::NewStub(Connect(server.target()));
  EXPECT_TRUE(StreamsRightly(*stub, sample_));
  EXPECT_TRUE(AttendsRightly(*stub, sample_));
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0);
  EXPECT_EQ(server.process().out(), "");
  EXPECT_THAT(server.process().err(),
              AllOf(HasSubstr("event=ready port="), HasSubstr("event=request request_id="),
                    HasSubstr("event=drain_end peaceful=true")));
}

TEST_F(ServerProgram, InterruptEndsItToo) {
  RunningServer server;
  server.process().Signal(SIGINT);
  EXPECT_EQ(server.process().Wait(), 0);
}

TEST_F(ServerProgram, TerminationLosesNoRequest) {
  RunningServer server;
  const auto channel = Connect(server.target());
  const auto stub = v1::Attention::NewStub(channel);
  PlainStream first(*stub, sample_);
  PlainStream second(*stub, sample_);
  ASSERT_TRUE(first.Open());
  ASSERT_TRUE(second.Open());
  const auto messages = PayloadMessages(sample_, first.accepted(), 1000);
  for (std::size_t i = 0; i < 30; ++i) ASSERT_TRUE(first.Send(messages[i]));
  server.process().Signal(SIGTERM);
  ASSERT_TRUE(server.process().Await(
      [&] { return server.process().err().find("event=drain_begin") != std::string::npos; }));
  for (std::size_t i = 30; i < messages.size(); ++i) ASSERT_TRUE(first.Send(messages[i]));
  EXPECT_TRUE(first.FinishesRightly());
  for (const auto& message : messages) ASSERT_TRUE(second.Send(message));
  EXPECT_TRUE(second.FinishesRightly());
  EXPECT_EQ(server.process().Wait(), 0);
}

TEST_F(ServerProgram, SecondSignalLeavesAtOnce) {
  RunningServer server;
  const auto stub = v1::Attention::NewStub(Connect(server.target()));
  PlainStream idle(*stub, sample_);
  ASSERT_TRUE(idle.Open());
  server.process().Signal(SIGTERM);
  ASSERT_TRUE(server.process().Await(
      [&] { return server.process().err().find("event=drain_begin") != std::string::npos; }));
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 128 + SIGTERM);
  EXPECT_THAT(server.process().err(), HasSubstr("second signal, leaving at once"));
}

TEST_F(ServerProgram, DrainTimeoutIsAFailure) {
  RunningServer server({"--drain-timeout-ms", "50"});
  const auto stub = v1::Attention::NewStub(Connect(server.target()));
  PlainStream idle(*stub, sample_);
  ASSERT_TRUE(idle.Open());
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 1);
  EXPECT_FALSE(idle.Finish().ok());
}

TEST_F(ServerProgram, ReadsAConfigurationFileThatFlagsOverride) {
  const std::string file = WriteConfig(
      "listen = [\"127.0.0.1:0\"]\n"
      "host-memory = \"64MiB\"\n"
      "max-requests = 7\n"
      "max-connections = 8\n");
  RunningServer server({"--config", file, "--max-connections", "9"}, /*listen=*/"");
  const v1::Limits limits = InfoOf(server.target()).limits();
  EXPECT_EQ(limits.host_memory_bytes(), 64U << 20);
  EXPECT_EQ(limits.max_concurrent_requests(), 7U);
  EXPECT_EQ(limits.max_connections(), 9U);
}

TEST_F(ServerProgram, RefusesABadConfigurationFile) {
  ExpectExit({"--config", WriteConfig("threads = 1\nno-such-key = 1\n")}, 2,
             HasSubstr("sage.conf:2: unknown key 'no-such-key'"));
  ExpectExit({"--config", WriteConfig("\nmax-requests = \"many\"\n")}, 2,
             AllOf(HasSubstr("sage.conf:2: max-requests: "), HasSubstr("many")));
  ExpectExit({"--config", WriteConfig("backend = \"tpu\"\n")}, 2,
             HasSubstr("sage.conf:1: backend: got tpu, allowed auto, cpu, cuda"));
  ExpectExit({"--config", WriteConfig("threads = [1, 2]\n")}, 2,
             HasSubstr("sage.conf:1: threads: "));
  ExpectExit({"--config", WriteConfig("threads = {}\n")}, 2,
             HasSubstr("sage.conf:1: threads: must be a string, a number"));
  ExpectExit({"--config", WriteConfig("backend = \n")}, 2, HasSubstr("sage.conf:1: "));
  ExpectExit({"--config", WriteConfig("streams = 65\n"), "--streams", "66"}, 2,
             HasSubstr("sage-server: streams: got 66, allowed 0 to 64"));
  ExpectExit({"--config", folder_.File("nowhere.conf")}, 2, HasSubstr("nowhere.conf"));
}

TEST_F(ServerProgram, TenantsHaveTablesInTheConfigurationFile) {
  const std::string file =
      WriteConfig("[tenant.default]\ntensor-memory = \"3MiB\"\ntensors = 5\nstreams = 6\n");
  RunningServer server({"--config", file});
  const v1::Limits limits = InfoOf(server.target()).limits();
  EXPECT_EQ(limits.tensor_memory_bytes(), 3U << 20);
  EXPECT_EQ(limits.max_tensors(), 5U);
  EXPECT_EQ(limits.max_streams(), 6U);
  ExpectExit({"--config", WriteConfig("[tenant.a]\n\nstreams = \"some\"\n")}, 2,
             HasSubstr("sage.conf:3: streams: must be a whole number, or a size"));
  ExpectExit({"--config", WriteConfig("[tenant.a]\ncertificates = \"x\"\n")}, 2,
             HasSubstr("sage.conf:2: certificates: must be strings, in brackets"));
  ExpectExit({"--config", WriteConfig("[tenant.a]\nsecret = 1\n")}, 2,
             HasSubstr("sage.conf:2: unknown key 'secret'"));
  ExpectExit({"--config", WriteConfig("[tenant.\"uid:0\"]\n")}, 2,
             HasSubstr("sage.conf:1: tenant: a tenant's name has"));
}

TEST_F(ServerProgram, MakesTokens) {
  const std::string file = folder_.File("tokens.toml");
  ChildProcess made(SAGE_SERVER_PROGRAM, {"make-token", "team-a", "--tokens", file});
  EXPECT_EQ(made.Wait(), 0);
  std::string token = made.out();
  ASSERT_THAT(token, ::testing::MatchesRegex("sage_[0-9a-f]{16}_[0-9a-f]{64}\n"));
  token.pop_back();
  EXPECT_THAT(ReadFile(file), AllOf(HasSubstr("team-a"), Not(HasSubstr(token.substr(21)))));
  EXPECT_EQ(std::filesystem::status(file).permissions(), std::filesystem::perms(0600));
  RunningServer server({"--tokens", file});
  const auto stub = v1::Server::NewStub(Connect(server.target()));
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + token);
  v1::ServerInfo info;
  const grpc::Status status = stub->GetInfo(&context, {}, &info);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(info.tenant(), "team-a");

  ExpectExit({"make-token", "team-a"}, 2, HasSubstr("--tokens"));
  ExpectExit({"make-token", "uid:0", "--tokens", file}, 2, HasSubstr("a tenant's name has"));
  ExpectExit({"make-token", "a", "--tokens", folder_.File("no/where")}, 1,
             HasSubstr("No such file or directory"));
}

TEST_F(ServerProgram, RefusesBadFlags) {
  ExpectExit({"--no-such-flag"}, 2, HasSubstr("--no-such-flag"));
  ExpectExit({"stray"}, 2, HasSubstr("stray"));
  ExpectExit({"--backend", "tpu"}, 2, HasSubstr("backend: got tpu, allowed auto, cpu, cuda"));
  ExpectExit({"--streams", "65"}, 2, HasSubstr("streams: got 65, allowed 0 to 64"));
  ExpectExit({"--streams", "two"}, 2, HasSubstr("two"));
  ExpectExit({"--threads", "-1"}, 2, HasSubstr("threads: got -1, allowed 0 to 4096"));
  ExpectExit({"--max-requests", "0"}, 2, HasSubstr("max-requests: got 0, allowed 1 to"));
  ExpectExit({"--stall-timeout-ms", "0"}, 2, HasSubstr("stall-timeout-ms: got 0, allowed 1 to"));
  ExpectExit({"--unit", "0"}, 2, HasSubstr("unit: got 0, allowed 1 to"));
  ExpectExit({"--window", "0"}, 2, HasSubstr("window: got 0, allowed 1 to"));
  ExpectExit({"--max-connection-age-ms", "0"}, 2,
             HasSubstr("max-connection-age-ms: got 0, allowed 1 to"));
  ExpectExit({"--default-deadline-ms", "9", "--max-connection-grace-ms", "8"}, 2,
             HasSubstr("max-connection-grace-ms: got 8, allowed 0, or default-deadline-ms, 9, to"));
  ExpectExit({"--host-memory", "much"}, 2, HasSubstr("much"));
  ExpectExit({"--log-level", "loud"}, 2, HasSubstr("loud"));
}

TEST_F(ServerProgram, RefusesToServeOthersUnlessToldTo) {
  for (const char* address : {"0.0.0.0:0", "[::]:0", "192.0.2.1:50051", "example.com:1"}) {
    ExpectExit({"--listen", address}, 2,
               AllOf(HasSubstr("listen: got " + std::string(address)),
                     HasSubstr("--allow-insecure-remote")));
  }
  ExpectExit(
      {"--metrics-listen", "0.0.0.0:0"}, 2,
      AllOf(HasSubstr("metrics-listen: got 0.0.0.0:0"), HasSubstr("--allow-insecure-metrics")));
  RunningServer server(
      {"--allow-insecure-remote", "--allow-insecure-metrics", "--metrics-listen", "0.0.0.0:0"},
      "0.0.0.0:0");
  const auto stub = v1::Attention::NewStub(Connect(server.target()));
  EXPECT_TRUE(AttendsRightly(*stub, sample_));
}

TEST_F(ServerProgram, RefusesAnAddressThatIsNone) {
  for (const char* address : {"50051", "127.0.0.1", "127.0.0.1:99999", "127.0.0.1:x", ":1"}) {
    ExpectExit({"--listen", address}, 2,
               HasSubstr("listen: got " + std::string(address) +
                         ", allowed HOST:PORT with a port of 0 to 65535, or unix:PATH"));
  }
}

TEST_F(ServerProgram, SaysThatAPortIsInUse) {
  RunningServer server;
  ExpectExit({"--backend", "cpu", "--listen", server.target()}, 1,
             HasSubstr("listen: cannot listen on " + server.target() + ": Address already in use"));
}

TEST_F(ServerProgram, CudaWithoutAGpuIsAnErrorThatSaysWhatToDo) {
  if (std::filesystem::exists("/dev/nvidia0")) GTEST_SKIP() << "this machine has a GPU";
  ExpectExit({"--backend", "cuda", "--listen", "127.0.0.1:0"}, 1,
             AllOf(HasSubstr("event=start_failed"), HasSubstr("--backend cpu")));
}

TEST_F(ServerProgram, ListensOnAUnixSocket) {
  const std::string path = folder_.File("sage.sock");
  const std::string target = "unix:" + path;
  const std::vector<std::string> arguments = {"--backend", "cpu", "--listen", target};
  const auto serves = [&](ChildProcess& process) {
    return process.Await([&] { return process.err().find("event=ready") != std::string::npos; });
  };
  ChildProcess killed(SAGE_SERVER_PROGRAM, arguments);
  ASSERT_TRUE(serves(killed)) << killed.err();
  EXPECT_TRUE(StreamsRightly(*v1::Attention::NewStub(Connect(target)), sample_));
  ExpectExit(arguments, 1, HasSubstr("listen: cannot listen on " + target));
  killed.Signal(SIGKILL);
  EXPECT_EQ(killed.Wait(), -SIGKILL);
  EXPECT_TRUE(std::filesystem::exists(path));

  // The socket that it left behind is nobody's.
  ChildProcess next(SAGE_SERVER_PROGRAM, arguments);
  ASSERT_TRUE(serves(next)) << next.err();
  EXPECT_TRUE(StreamsRightly(*v1::Attention::NewStub(Connect(target)), sample_));
  next.Signal(SIGTERM);
  EXPECT_EQ(next.Wait(), 0);
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(ServerProgram, ReflectionIsByFlag) {
  const std::string method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  const std::string list_services("\x3a\x00", 2);  // ServerReflectionRequest.list_services
  RunningServer without;
  EXPECT_EQ(RawExchange(Connect(without.target()), method, {list_services}).status.error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  RunningServer with({"--reflection"});
  const RawAnswer answer = RawExchange(Connect(with.target()), method, {list_services});
  ASSERT_EQ(answer.messages.size(), 1U);
  EXPECT_THAT(answer.messages.front(),
              AllOf(HasSubstr("sage.v1.Attention"), HasSubstr("sage.v1.Tensors"),
                    HasSubstr("sage.v1.Sessions"), HasSubstr("sage.v1.Server")));
}

TEST_F(ServerProgram, AThousandIdleStreamsCostLittle) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers take memory of their own";
#endif
  constexpr int kConnections = 20;
  constexpr int kStreams = 1000;
  constexpr std::int64_t kLimitBytes = 50 << 20;
  RunningServer server({"--max-requests", "2000", "--stall-timeout-ms", "600000"});
  std::vector<std::unique_ptr<v1::Attention::Stub>> stubs;
  for (int i = 0; i < kConnections; ++i) {
    stubs.push_back(v1::Attention::NewStub(Connect(server.target())));
    EXPECT_TRUE(AttendsRightly(*stubs.back(), sample_));
  }
  const std::int64_t before = ResidentBytes(server.process().pid());
  {
    std::vector<std::unique_ptr<PlainStream>> streams;
    for (int i = 0; i < kStreams; ++i) {
      streams.push_back(std::make_unique<PlainStream>(
          *stubs[i % kConnections], sample_,
          std::chrono::system_clock::now() + std::chrono::minutes(5)));
      ASSERT_TRUE(streams.back()->Open()) << streams.back()->Finish().error_message();
    }
    const std::int64_t cost = ResidentBytes(server.process().pid()) - before;
    std::cout << kStreams << " idle streams, accepted: " << (cost >> 10) << " KiB\n";
    EXPECT_LT(cost, kLimitBytes);
    EXPECT_TRUE(StreamsRightly(*stubs.front(), sample_));
    for (const auto& stream : streams) stream->Cancel();
    for (const auto& stream : streams) stream->Finish();
  }
}

TEST_F(ServerProgram, AsksAnotherForItsHealth) {
  RunningServer server;
  ExpectExit({"--health-check", server.target()}, 0, "");
  const std::string target = server.target();
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0);
  ExpectExit({"--health-check", target}, 1, HasSubstr("sage-server: " + target + ": "));
}

TEST_F(ServerProgram, AsksAnotherForItsHealthOverTls) {
  const CertificateAuthority authority;
  const Identity identity = authority.IssueForLoopback();
  const auto write = [this](const char* name, const std::string& text) {
    std::ofstream(folder_.File(name)) << text;
    return folder_.File(name);
  };
  std::vector<std::string> options = {"--tls-cert", write("cert.pem", identity.certificate),
                                      "--tls-key", write("key.pem", identity.key)};
  const auto ask = [](const std::string& target, std::vector<std::string> its_options) {
    its_options.insert(its_options.end(), {"--health-check", target});
    return its_options;
  };
  const RunningServer tls(options);
  ExpectExit(ask(tls.target(), options), 0, "");
  ExpectExit(ask(tls.target(), {}), 1, HasSubstr("sage-server: " + tls.target() + ": "));

  std::vector<std::string> mutual = options;
  mutual.insert(mutual.end(), {"--tls-client-ca", write("ca.pem", authority.certificate())});
  const std::string socket = "unix:" + folder_.File("sage.sock");
  mutual.insert(mutual.end(), {"--listen", socket});
  const RunningServer both(mutual);
  ExpectExit(ask(both.target(), mutual), 0, "");
  ExpectExit(ask(both.target(), options), 1, HasSubstr("sage-server: " + both.target() + ": "));
  ExpectExit(ask(socket, mutual), 0, "");
}

TEST_F(ServerProgram, EveryLineOfItsLogHasItsForm) {
  RunningServer server({"--log-level", "debug"});
  const auto channel = Connect(server.target());
  // A header whose request_id is no UTF-8, of which protobuf has something to say.
  const RawAnswer answer =
      RawExchange(channel, "/sage.v1.Attention/Attend", {"\x0a\x04\x82\x01\x01\xff"});
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_TRUE(AttendsRightly(*v1::Attention::NewStub(channel), sample_));
  server.process().Signal(SIGTERM);
  EXPECT_EQ(server.process().Wait(), 0);
  std::istringstream lines(server.process().err());
  for (std::string line; std::getline(lines, line);) {
    EXPECT_THAT(line, ::testing::MatchesRegex("time=[0-9T:.-]+Z level=[a-z]+ event=[a-z_]+( .*)?"));
  }
}

TEST_F(ServerProgram, ServesOnWhereItsLogIsFull) {
  // As on a disk without room: every write to the log fails.
  const std::string port_file = folder_.File("port");
  ChildProcess server(
      "/bin/sh", {"-c", "exec \"$0\" \"$@\" 2>/dev/full", SAGE_SERVER_PROGRAM, "--backend", "cpu",
                  "--listen", "127.0.0.1:0", "--port-file", port_file});
  ASSERT_TRUE(server.Await([&] { return !ReadFile(port_file).empty(); }));
  const auto stub = v1::Attention::NewStub(
      Connect("127.0.0.1:" + std::to_string(std::atoi(ReadFile(port_file).c_str()))));
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(AttendsRightly(*stub, sample_));
    EXPECT_TRUE(StreamsRightly(*stub, sample_));
  }
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0);
}

TEST_F(ServerProgram, AJumpOfTheClockEndsNoRequest) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers do not start behind another preloaded library";
#endif
  const std::string clock = folder_.File("clock");
  const auto jump = [&](std::int64_t seconds) {
    std::fstream(clock, std::ios::in | std::ios::out | std::ios::binary)
        .write(reinterpret_cast<const char*>(&seconds), sizeof(seconds));
  };
  std::ofstream(clock) << std::string(sizeof(std::int64_t), '\0');
  const std::string port_file = folder_.File("port");
  ChildProcess server(
      SAGE_SERVER_PROGRAM,
      {"--backend", "cpu", "--listen", "127.0.0.1:0", "--port-file", port_file},
      std::vector<std::string>{"LD_PRELOAD=" CLOCK_JUMP_LIBRARY, "CLOCK_JUMP_FILE=" + clock});
  ASSERT_TRUE(server.Await([&] { return !ReadFile(port_file).empty(); })) << server.err();
  const auto stub = v1::Attention::NewStub(
      Connect("127.0.0.1:" + std::to_string(std::atoi(ReadFile(port_file).c_str()))));
  for (const std::int64_t seconds : {std::int64_t{86400}, std::int64_t{-86400}, std::int64_t{0}}) {
    PlainStream running(*stub, sample_);
    ASSERT_TRUE(running.Open());
    jump(seconds);
    for (const auto& message : PayloadMessages(sample_, running.accepted(), 1 << 18)) {
      ASSERT_TRUE(running.Send(message));
    }
    EXPECT_TRUE(running.FinishesRightly()) << "after a jump to " << seconds << " s";
    EXPECT_TRUE(AttendsRightly(*stub, sample_));
  }
  server.Signal(SIGTERM);
  EXPECT_EQ(server.Wait(), 0);
}

TEST_F(ServerProgram, LogsTheTraceOfARequest) {
  RunningServer server;
  const auto stub = v1::Attention::NewStub(Connect(server.target()));
  v1::AttendResponse response;
  for (const char* traceparent : {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                                  "00-\" forged=\"1\"-00f067aa0ba902b7-01"}) {
    grpc::ClientContext context;
    context.AddMetadata("traceparent", traceparent);
    EXPECT_TRUE(stub->Attend(&context, UnaryRequest(sample_), &response).ok());
  }
  EXPECT_THAT(server.process().err(),
              AllOf(HasSubstr(" trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7 "
                              "rpc=Attend "),
                    ::testing::Not(HasSubstr("forged"))));
}

TEST_F(ServerProgram, HelpAndVersionAreNoErrors) {
  ChildProcess help(SAGE_SERVER_PROGRAM, {"--help"});
  EXPECT_EQ(help.Wait(), 0);
  EXPECT_THAT(help.out(), AllOf(HasSubstr("--listen"), HasSubstr("--backend")));
  ChildProcess version(SAGE_SERVER_PROGRAM, {"--version"});
  EXPECT_EQ(version.Wait(), 0);
  EXPECT_THAT(version.out(), HasSubstr("sage-server "));
}

}  // namespace
}  // namespace sage::testing
