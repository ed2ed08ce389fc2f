// Tensor bytes over one connection into memory at the server, in messages of 1 MiB:
//
//   sage   sage::Client to a sage server whose device computes nothing, into the server's slabs
//   raw    messages kept as ByteBuffers, each copied once into a ring as large as the window
//   stub   a stream of ordinary generated messages with a `bytes` field, left where they were
//   parsed
//
//   transport_bench [MiB a run] [rounds]        (default 1024 7)
//
// Client and servers are two processes. The three take turns within each round, so that what else
// the machine does falls on all of them; figures are medians over rounds, in GiB/s, over TCP on
// loopback and over a Unix socket.
#include <malloc.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/client.h"
#include "grpcpp/generic/async_generic_service.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "proto/wire/frame.h"
#include "sage/v1/attention.grpc.pb.h"
#include "server/server.h"
#include "spdlog/spdlog.h"
#include "tests/support/child_process.h"
#include "tests/support/paced_backend.h"

namespace sage {
namespace {

constexpr std::size_t kMessageBytes = 1 << 20;
constexpr std::size_t kWindowBytes = 32 << 20;
constexpr int kMaxMessageBytes = 8 << 20;
constexpr char kRawMethod[] = "/bench.Sink/Put";

[[noreturn]] void Die(const std::string& why) {
  std::fprintf(stderr, "transport_bench: %s\n", why.c_str());
  std::_Exit(1);
}

// Reads to the end of the stream.
template <typename Base, typename Request>
class SinkReactor final : public Base {
 public:
  explicit SinkReactor(std::function<void(const Request&)> take) : take_(std::move(take)) {
    this->StartRead(&request_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      this->Finish(grpc::Status::OK);
      return;
    }
    take_(request_);
    this->StartRead(&request_);
  }
  void OnDone() override { delete this; }

 private:
  const std::function<void(const Request&)> take_;
  Request request_;
};

// Memory that payload is copied to, as large as the window of the sage server.
class Ring {
 public:
  std::span<std::byte> Take(std::size_t bytes) {
    if (at_ + bytes > memory_.size()) at_ = 0;
    at_ += bytes;
    return std::span(memory_).subspan(at_ - bytes, bytes);
  }

 private:
  std::vector<std::byte> memory_ = std::vector<std::byte>(kWindowBytes);
  std::size_t at_ = 0;
};

class RawSink final : public grpc::CallbackGenericService {
 public:
  grpc::ServerGenericBidiReactor* CreateReactor(
      grpc::GenericCallbackServerContext* /*context*/) override {
    return new SinkReactor<grpc::ServerGenericBidiReactor, grpc::ByteBuffer>(
        [this](const grpc::ByteBuffer& message) {
          FrameReader(message, {.offset = 0, .size = message.Length()})
              .CopyTo(ring_.Take(message.Length()));
        });
  }

 private:
  Ring ring_;
};

class StubSink final : public v1::Attention::CallbackService {
 public:
  grpc::ServerBidiReactor<v1::AttendStreamRequest, v1::AttendStreamResponse>* AttendStream(
      grpc::CallbackServerContext* /*context*/) override {
    return new SinkReactor<
        grpc::ServerBidiReactor<v1::AttendStreamRequest, v1::AttendStreamResponse>,
        v1::AttendStreamRequest>([this](const v1::AttendStreamRequest& message) {
      const std::string& data = message.data();
      std::memcpy(ring_.Take(data.size()).data(), data.data(), data.size());
    });
  }

 private:
  Ring ring_;
};

// Where the three servers listen, on one transport.
struct Targets {
  std::string sage, raw, stub;
};

std::unique_ptr<grpc::Server> ServeOn(const std::string& address, int* port,
                                      const std::function<void(grpc::ServerBuilder&)>& add) {
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), port);
  add(builder);
  return builder.BuildAndStart();
}

// The process of the servers: tells their ports through `ports`, then serves until it is killed.
[[noreturn]] void Serve(const std::string& folder, int ports) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  spdlog::set_level(spdlog::level::off);
  server::ServerOptions options;
  options.listen = {"127.0.0.1:0", absl::StrCat("unix:", folder, "/sage")};
  options.window_bytes = kWindowBytes;
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(testing::MakePacedBackend({.unified_memory = true}));
  const auto sage = server::Server::Start(options, std::move(backends));
  if (!sage.ok()) Die(sage.status().ToString());
  std::array<int, 3> found = {(*sage)->port(), 0, 0};

  std::array<RawSink, 2> raw;
  std::array<StubSink, 2> stub;
  std::vector<std::unique_ptr<grpc::Server>> servers;
  const std::array<std::string, 2> raw_addresses = {"127.0.0.1:0",
                                                    absl::StrCat("unix:", folder, "/raw")};
  const std::array<std::string, 2> stub_addresses = {"127.0.0.1:0",
                                                     absl::StrCat("unix:", folder, "/stub")};
  for (int i = 0; i < 2; ++i) {
    int unused = 0;
    servers.push_back(ServeOn(raw_addresses[i], i == 0 ? &found[1] : &unused,
                              [&](auto& b) { b.RegisterCallbackGenericService(&raw[i]); }));
    servers.push_back(ServeOn(stub_addresses[i], i == 0 ? &found[2] : &unused,
                              [&](auto& b) { b.RegisterService(&stub[i]); }));
  }
  if (write(ports, found.data(), sizeof(found)) != sizeof(found)) Die("pipe");
  while (true) pause();
}

std::shared_ptr<grpc::Channel> Connect(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

// Sends `count` references to one message, one write at a time.
class RawSender final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  RawSender(const std::shared_ptr<grpc::Channel>& channel, std::span<std::byte> message, int count)
      : message_(message), left_(count) {
    grpc::GenericStub(channel).PrepareBidiStreamingCall(&context_, kRawMethod, {}, this);
    Next();
    StartRead(&answer_);
    StartCall();
  }
  bool Wait() { return done_.get_future().get(); }

 private:
  void Next() {
    const grpc::Slice slice(
        message_.data(), message_.size(), [](void*) {}, nullptr);
    out_ = grpc::ByteBuffer(&slice, 1);
    StartWrite(&out_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return;
    if (--left_ > 0) {
      Next();
    } else {
      StartWritesDone();
    }
  }
  void OnDone(const grpc::Status& status) override { done_.set_value(status.ok()); }

  const std::span<std::byte> message_;
  int left_;
  grpc::ClientContext context_;
  grpc::ByteBuffer out_, answer_;
  std::promise<bool> done_;
};

// One connection to each of the three servers of a transport, and what is sent.
class Bench {
 public:
  Bench(const Targets& targets, std::size_t mebibytes)
      : messages_(static_cast<int>(mebibytes)),
        raw_(Connect(targets.raw)),
        stub_(v1::Attention::NewStub(Connect(targets.stub))),
        tensor_(mebibytes << 19, std::byte{1}) {
    ClientOptions options;
    options.target = targets.sage;
    options.connections = 1;
    auto client = Client::Connect(options);
    if (!client.ok()) Die(client.status().ToString());
    client_ = *std::move(client);
    stub_message_.set_data(std::string(kMessageBytes, 'x'));
    // Few queries and many keys: what travels is k and v, 4 MiB each a head.
    AttentionProblem& problem = request_.problem;
    problem.batch = 1;
    problem.head_dim = 128;
    problem.seqlen_q = 128;
    problem.seqlen_k = 16384;
    problem.num_heads_q = problem.num_heads_kv = static_cast<std::int64_t>(mebibytes) / 8;
    q_.resize(problem.q_elements() * 2);
    out_.resize(q_.size());
    request_.q = q_.data();
    request_.k = tensor_.data();
    request_.v = tensor_.data();
    request_.out = out_.data();
  }

  void Sage() {
    const auto report = client_->Attend(request_);
    if (!report.ok()) Die(report.status().ToString());
  }
  void Raw() {
    if (!RawSender(raw_, std::span(tensor_).first(kMessageBytes), messages_).Wait()) Die("raw");
  }
  void Stub() {
    grpc::ClientContext context;
    const auto stream = stub_->AttendStream(&context);
    for (int i = 0; i < messages_; ++i) {
      if (!stream->Write(stub_message_)) Die("stub");
    }
    stream->WritesDone();
    v1::AttendStreamResponse answer;
    while (stream->Read(&answer)) {
    }
    if (!stream->Finish().ok()) Die("stub");
  }

 private:
  const int messages_;
  std::unique_ptr<Client> client_;
  std::shared_ptr<grpc::Channel> raw_;
  std::unique_ptr<v1::Attention::Stub> stub_;
  v1::AttendStreamRequest stub_message_;
  AttendRequest request_;
  std::vector<std::byte> tensor_, q_, out_;
};

double Seconds(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

void Compare(const char* transport, const Targets& targets, std::size_t mebibytes, int rounds) {
  Bench bench(targets, mebibytes);
  const std::array<std::function<void()>, 3> runs = {[&] { bench.Sage(); }, [&] { bench.Raw(); },
                                                     [&] { bench.Stub(); }};
  std::array<std::vector<double>, 3> rates;
  for (const auto& run : runs) run();  // connects, and faults memory in
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const std::size_t which = (i + round) % runs.size();
      rates[which].push_back(static_cast<double>(mebibytes) / 1024 / Seconds(runs[which]));
    }
  }
  std::vector<double> over_raw, over_stub;
  for (int round = 0; round < rounds; ++round) {
    over_raw.push_back(rates[0][round] / rates[1][round]);
    over_stub.push_back(rates[0][round] / rates[2][round]);
  }
  std::printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", transport, Median(rates[0]),
              Median(rates[1]), Median(rates[2]), Median(over_raw), Median(over_stub));
}

int Main(int argc, char** argv) {
  const std::size_t mebibytes = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 1024;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 7;
  if (mebibytes < 8 || mebibytes % 8 != 0 || rounds < 1) Die("usage: [MiB, 8 and up] [rounds]");
  // As sage-server does.
  mallopt(M_MMAP_THRESHOLD, 16 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
  const testing::ScratchFolder folder;
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) Die("pipe");
  const pid_t servers = fork();  // before gRPC has any thread
  if (servers == 0) Serve(folder.File(""), ends[1]);
  std::array<int, 3> ports{};
  if (read(ends[0], ports.data(), sizeof(ports)) != sizeof(ports)) Die("the servers did not start");
  const auto tcp = [&](int i) { return absl::StrCat("127.0.0.1:", ports[i]); };
  const auto local = [&](const char* name) { return absl::StrCat("unix:", folder.File(name)); };
  std::printf(
      "| GiB/s | sage | raw | stub | sage / raw | sage / stub |\n|---|---|---|---|---|---|\n");
  Compare("TCP", {tcp(0), tcp(1), tcp(2)}, mebibytes, rounds);
  Compare("Unix socket", {local("sage"), local("raw"), local("stub")}, mebibytes, rounds);
  kill(servers, SIGKILL);
  waitpid(servers, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace sage

int main(int argc, char** argv) { return sage::Main(argc, argv); }
