// How a server behaves that has more to do than it can, and whose clients and processes come and
// go.
//
//   operation_bench MODE [SECONDS [BACKEND]]
//
// Each runs servers of its own, on the CPU backend unless BACKEND says cuda, prints its figures
// beside their goals, and ends with status 1 where one is missed. Modes:
//
//   overload  requests with a deadline at three times the rate that the server can serve: what is
//             still served in time, how soon the rest is refused, how the server's memory grows
//   queue     the same with a deadline of 4 s, over one connection: very many wait
//   network   the same with requests that are much to carry and little to compute: not the device
//             is short, but what brings payload in and answers out
//   deadline  a job of seconds with a deadline of 100 ms: how soon it is refused
//   cancel    requests cancelled at any stage: how soon the server holds nothing of them
//   restart   two servers restarted in turn under clients that try again: answers lost or wrong
//   fairness  a tenant with one stream beside one with a hundred: its part of what it has alone,
//             and of the device
//
// Everything shares one machine, and its other load shows in the figures.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "client/client.h"
#include "grpcpp/grpcpp.h"
#include "sage/v1/attention.grpc.pb.h"
#include "tests/support/child_process.h"

namespace sage::testing {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

[[noreturn]] void GiveUp(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// The value that a share `q` of the sorted values does not exceed.
double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size());
  return values[std::min(values.size() - 1, static_cast<std::size_t>(place))];
}

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

bool all_met = true;
std::string backend = "cpu";

// Prints a figure and its goal, which is a lower or an upper bound.
void State(const char* what, double figure, const char* unit, char bound, double goal) {
  const bool met = bound == '>' ? figure >= goal : figure <= goal;
  all_met = all_met && met;
  std::printf("  %-48s %10.3f %-9s goal %c= %g %s%s\n", what, figure, unit, bound, goal, unit,
              met ? "" : "   MISSED");
}

// A sage-server, up once constructed.
class ServerProcess {
 public:
  explicit ServerProcess(std::vector<std::string> more = {},
                         const std::string& listen = "127.0.0.1:0")
      : process_(SAGE_SERVER_PROGRAM, Arguments(std::move(more), listen)) {
    if (!process_.Await([&] { return !ReadFile(PortFile()).empty(); })) GiveUp(process_.err());
    target_ = "127.0.0.1:" + std::to_string(std::atoi(ReadFile(PortFile()).c_str()));
  }

  const std::string& target() const { return target_; }
  void Stop() {
    process_.Signal(SIGTERM);
    if (process_.Wait() != 0) GiveUp("a server did not end in peace:\n" + process_.err());
  }
  // Resident memory, from a line like "VmRSS:    1234 kB".
  double ResidentMiB() const {
    std::ifstream status("/proc/" + std::to_string(process_.pid()) + "/status");
    for (std::string line; std::getline(status, line);) {
      if (absl::StartsWith(line, "VmRSS:")) return std::atof(line.c_str() + 6) / 1024;
    }
    return 0;
  }

 private:
  std::string PortFile() const { return folder_.File("port"); }
  std::vector<std::string> Arguments(std::vector<std::string> more, const std::string& listen) {
    for (const std::string& word :
         {std::string("--backend"), backend, std::string("--log-level"), std::string("warn"),
          std::string("--listen"), listen, std::string("--port-file"), PortFile()}) {
      more.push_back(word);
    }
    return more;
  }

  const ScratchFolder folder_;
  ChildProcess process_;
  std::string target_;
};

// One attention on inputs that all share, answered into memory of its own.
class Workload {
 public:
  // Much to carry and little to compute: of each head one query and a block of keys exist, and with
  // this precision the others travel all the same.
  static Workload OfPayload(std::int64_t heads, std::int64_t seqlen, std::int64_t head_dim) {
    Workload workload(heads, seqlen, head_dim);
    workload.problem_.seqlens_q = {1};
    workload.problem_.seqlens_k = {64};
    workload.problem_.precision = Precision::kQkInt8PvFp8;
    return workload;
  }

  Workload(std::int64_t heads, std::int64_t seqlen, std::int64_t head_dim) {
    problem_.batch = 1;
    problem_.num_heads_q = problem_.num_heads_kv = heads;
    problem_.seqlen_q = problem_.seqlen_k = seqlen;
    problem_.head_dim = head_dim;
    elements_.resize(problem_.q_elements());
    std::mt19937_64 random(7);
    for (std::uint16_t& element : elements_) element = 0x3000 + random() % 0x800;  // 0.1 to 0.5
  }

  AttendRequest Request(std::vector<std::uint16_t>& out) const {
    out.resize(elements_.size());
    AttendRequest request;
    request.problem = problem_;
    request.q = request.k = request.v = elements_.data();
    request.out = out.data();
    return request;
  }

 private:
  AttentionProblem problem_;
  std::vector<std::uint16_t> elements_;
};

// Streams only, so that nothing but a header has come when a request is refused.
std::unique_ptr<Client> Connect(const std::string& target, int connections = 4) {
  auto client =
      Client::Connect({.target = target, .inline_limit_bytes = 0, .connections = connections});
  if (!client.ok()) GiveUp(client.status().ToString());
  return *std::move(client);
}

// Requests in a closed loop of `streams` threads: how many were answered in a second.
double ClosedLoopRate(Client& client, const Workload& workload, int streams,
                      Clock::duration duration) {
  std::atomic<int> answered = 0;
  const Clock::time_point end = Clock::now() + duration;
  std::vector<std::thread> threads;
  for (int i = 0; i < streams; ++i) {
    threads.emplace_back([&] {
      std::vector<std::uint16_t> out;
      const AttendRequest request = workload.Request(out);
      while (Clock::now() < end) {
        const auto report = client.Attend(request);
        if (!report.ok()) GiveUp(report.status().ToString());
        if (Clock::now() < end) ++answered;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return answered / Seconds(duration);
}

// Requests with a deadline at three times the rate of a closed loop.
void Overload(const char* what, const Workload& workload, std::chrono::milliseconds deadline,
              int connections, Clock::duration duration) {
  constexpr double kTimes = 3;
  const ServerProcess server({"--threads", "1"});
  const std::unique_ptr<Client> client = Connect(server.target(), connections);
  ClosedLoopRate(*client, workload, 4, 1s);
  const double peak = ClosedLoopRate(*client, workload, 4, duration / 2);

  struct Outcome {
    std::mutex mutex;
    int in_time = 0, late = 0, other = 0;
    std::vector<double> refused_after;
    std::string example, refusal;  // the last one's
  } outcome;
  // More than are ever under way.
  std::vector<std::vector<std::uint16_t>> outs(
      64 + static_cast<std::size_t>(2 * kTimes * peak * Seconds(deadline)));
  std::mt19937_64 random(11);
  std::exponential_distribution<double> gap(kTimes * peak);
  std::vector<double> memory;  // the server's, at each request
  // What a call takes that wants nothing, over a connection of its own: what a refusal takes beyond
  // that is not for want of a processor.
  std::atomic<bool> over = false;
  std::vector<double> empty_calls;
  std::thread caller([&] {
    const std::unique_ptr<Client> other = Connect(server.target(), 1);
    while (!over) {
      const Clock::time_point at = Clock::now();
      if (!other->GetInfo(absl::Seconds(10)).ok()) GiveUp("an empty call failed");
      empty_calls.push_back(Seconds(Clock::now() - at));
      std::this_thread::sleep_for(10ms);
    }
  });
  const Clock::time_point begin = Clock::now();
  Clock::time_point due = begin;
  int sent = 0;
  for (; due < begin + duration;
       due += std::chrono::nanoseconds(static_cast<std::int64_t>(gap(random) * 1e9)), ++sent) {
    std::this_thread::sleep_until(due);
    memory.push_back(server.ResidentMiB());
    AttendRequest request = workload.Request(outs[sent % outs.size()]);
    request.timeout = absl::FromChrono(deadline);
    const Clock::time_point at = Clock::now();
    client->AttendAsync(request, [&outcome, at](const absl::StatusOr<AttendReport>& report) {
      const Clock::duration after = Clock::now() - at;
      const std::lock_guard lock(outcome.mutex);
      if (report.ok()) {
        ++outcome.in_time;
      } else if (absl::StrContains(report.status().message(), "cannot be met") ||
                 absl::IsResourceExhausted(report.status())) {
        outcome.refused_after.push_back(Seconds(after));
        outcome.refusal = report.status().ToString();
      } else if (absl::IsDeadlineExceeded(report.status())) {
        ++outcome.late;
      } else {
        ++outcome.other;
        outcome.example = report.status().ToString();
      }
    });
  }
  const double seconds = Seconds(Clock::now() - begin);
  over = true;
  caller.join();
  std::this_thread::sleep_for(2 * deadline);  // all have ended
  const std::lock_guard lock(outcome.mutex);
  std::printf("%s, a deadline of %lld ms, one compute thread, %.0f s\n", what,
              static_cast<long long>(deadline.count()), seconds);
  std::printf("  peak %.1f/s, sent %.1f/s: %d in time, %zu refused, %d late, %d other %s\n", peak,
              sent / seconds, outcome.in_time, outcome.refused_after.size(), outcome.late,
              outcome.other, outcome.example.c_str());
  std::printf("  one refusal: %s\n", outcome.refusal.c_str());
  State("answered in time, of the peak", outcome.in_time / seconds / peak, "", '>', 0.9);
  State("refused after, p99", 1e3 * Quantile(outcome.refused_after, 0.99), "ms", '<', 5);
  std::printf("  refused after, p50 %33.3f ms\n", 1e3 * Quantile(outcome.refused_after, 0.5));
  std::printf("  an empty call beside it, p50 and p99 %15.3f ms %.3f ms\n",
              1e3 * Quantile(empty_calls, 0.5), 1e3 * Quantile(empty_calls, 0.99));
  // The first quarter fills what the server keeps from one request to the next.
  const auto quarter = memory.begin() + static_cast<std::ptrdiff_t>(memory.size() / 4);
  const double second = Mean({quarter, quarter + (quarter - memory.begin())});
  const double last = Mean({memory.end() - (quarter - memory.begin()), memory.end()});
  std::printf(
      "  server's memory, MiB: %.1f at the begin, %.1f in the second quarter, %.1f in the last\n",
      memory.front(), second, last);
  State("server's memory, growth since the second quarter", last - second, "MiB", '<', 8);
}

void OverloadOfDevice(Clock::duration duration) {
  Overload("overload: S2048 D128", Workload(1, 2048, 128), 150ms, 4, duration);
}

void OverloadOfConnection(Clock::duration duration) {
  Overload("queue: S2048 D128", Workload(1, 2048, 128), 4s, 1, duration);
}

// Over two connections: as many as a small machine has cores to serve, client and server together.
void OverloadOfNetwork(Clock::duration duration) {
  Overload("network: H8 S2048 D128, 12 MiB there and 4 MiB back, nearly nothing to compute",
           Workload::OfPayload(8, 2048, 128), 300ms, 2, duration);
}

void Deadline(Clock::duration) {
  constexpr int kTries = 200;
  const ServerProcess server;
  const auto stub = v1::Attention::NewStub(
      grpc::CreateChannel(server.target(), grpc::InsecureChannelCredentials()));
  v1::AttendStreamRequest message;
  v1::AttendHeader& header = *message.mutable_header();
  header.mutable_shape()->set_batch(1);
  header.mutable_shape()->set_num_heads_q(8);
  header.mutable_shape()->set_num_heads_kv(8);
  header.mutable_shape()->set_seqlen_q(16384);
  header.mutable_shape()->set_seqlen_k(16384);
  header.mutable_shape()->set_head_dim(128);
  header.set_dtype(v1::DATA_TYPE_FLOAT16);
  header.set_layout(v1::LAYOUT_HND);
  std::vector<double> after;
  std::string example;
  for (int i = 0; i < kTries; ++i) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 100ms);
    const Clock::time_point at = Clock::now();
    const auto stream = stub->AttendStream(&context);
    stream->Write(message);
    v1::AttendStreamResponse response;
    if (stream->Read(&response)) GiveUp("it was accepted");
    const grpc::Status status = stream->Finish();
    after.push_back(Seconds(Clock::now() - at));
    example = status.error_message();
    if (!absl::StrContains(example, "cannot be met")) GiveUp(example);
  }
  std::printf(
      "deadline: H8 S16384 D128 with a deadline of 100 ms, %d times, no payload sent\n  %s\n",
      kTries, example.c_str());
  State("refused after, p99", 1e3 * Quantile(after, 0.99), "ms", '<', 5);
}

void Cancel(Clock::duration duration) {
  constexpr auto kBetweenLooks = 250us;
  const ServerProcess server;
  const std::unique_ptr<Client> client = Connect(server.target());
  const Workload workload(8, 4096, 64);
  std::vector<std::uint16_t> out;
  const AttendRequest request = workload.Request(out);
  const Clock::time_point warm = Clock::now();
  if (const auto report = client->Attend(request); !report.ok()) GiveUp(report.status().ToString());
  const double whole = Seconds(Clock::now() - warm);
  std::mt19937_64 random(13);
  std::uniform_real_distribution<double> moment(0, whole);
  std::vector<double> freed_after;
  int completed = 0;
  for (const Clock::time_point end = Clock::now() + duration; Clock::now() < end;) {
    std::atomic<bool> ended = false;
    std::atomic<bool> ok = false;
    const AttendCall call =
        client->AttendAsync(request, [&](const absl::StatusOr<AttendReport>& report) {
          ok = report.ok();
          ended = true;
          ended.notify_one();
        });
    std::this_thread::sleep_for(std::chrono::duration<double>(moment(random)));
    const Clock::time_point at = Clock::now();
    call.Cancel();
    while (true) {
      const auto statistics = client->GetStatistics();
      if (!statistics.ok()) GiveUp(statistics.status().ToString());
      if (statistics->requests_active() == 0 && statistics->host_bytes_reserved() == 0 &&
          statistics->device_bytes_reserved() == 0 && statistics->slab_bytes_in_use() == 0) {
        break;
      }
      // Asking without a pause would take the cores that are to let go.
      std::this_thread::sleep_for(kBetweenLooks);
    }
    const double after = Seconds(Clock::now() - at);
    ended.wait(false);
    ok ? ++completed : (freed_after.push_back(after), 0);
  }
  std::printf(
      "cancel: H8 S4096 D64, %.0f ms long, cancelled at any moment: %zu times; %d had ended "
      "before\n",
      1e3 * whole, freed_after.size(), completed);
  State("nothing held after, p99", 1e3 * Quantile(freed_after, 0.99), "ms", '<', 20);
  std::printf("  nothing held after, p50 %31.3f ms\n", 1e3 * Quantile(freed_after, 0.5));
}

void Restart(Clock::duration duration) {
  constexpr int kThreads = 4;
  constexpr auto kPatience = 30s;
  std::vector<std::unique_ptr<ServerProcess>> servers;
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 2; ++i) {
    servers.push_back(
        std::make_unique<ServerProcess>(std::vector<std::string>{"--drain-delay-ms", "100"}));
    clients.push_back(Connect(servers.back()->target()));
  }
  const Workload workload(4, 1024, 64);
  std::vector<std::uint16_t> expected;
  if (!clients[0]->Attend(workload.Request(expected)).ok()) GiveUp("the first request failed");

  const Clock::time_point end = Clock::now() + duration;
  std::atomic<int> right = 0, wrong = 0, lost = 0, retries = 0, restarts = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      std::vector<std::uint16_t> out;
      for (std::size_t next = i; Clock::now() < end;) {
        const Clock::time_point give_up = Clock::now() + kPatience;
        while (true) {
          std::fill(out.begin(), out.end(), 0xFFFF);
          const auto report = clients[next++ % clients.size()]->Attend(workload.Request(out));
          if (report.ok()) {
            ++(out == expected ? right : wrong);
            break;
          }
          // What a server that goes away says of a request: it may have begun, and does no harm.
          const bool again =
              absl::IsUnavailable(report.status()) || absl::IsCancelled(report.status());
          if (!again || Clock::now() > give_up) {
            std::fprintf(stderr, "%s\n", report.status().ToString().c_str());
            ++lost;
            break;
          }
          ++retries;
          std::this_thread::sleep_for(1ms);
        }
      }
    });
  }
  for (std::size_t next = 0; Clock::now() + 2s < end; ++next, ++restarts) {
    std::unique_ptr<ServerProcess>& server = servers[next % servers.size()];
    const std::string target = server->target();
    server->Stop();
    server = std::make_unique<ServerProcess>(std::vector<std::string>{"--drain-delay-ms", "100"},
                                             target);
    // The next one goes once this one is in use again.
    while (!clients[next % clients.size()]->GetInfo(absl::Seconds(10)).ok()) {
      std::this_thread::sleep_for(10ms);
    }
  }
  for (std::thread& thread : threads) thread.join();
  std::printf("restart: two servers, %d restarts, %d threads, H4 S1024 D64: %d right, %d retries\n",
              restarts.load(), kThreads, right.load(), retries.load());
  State("lost", lost, "", '<', 0);
  State("wrong", wrong, "", '<', 0);
}

void Fairness(Clock::duration duration) {
  constexpr int kMany = 100;
  const ScratchFolder folder;
  const std::string socket = "unix:" + folder.File("sage.sock");
  // Over TCP and over the Unix socket are two tenants.
  const ServerProcess server({"--listen", socket, "--host-memory", "2GiB"});
  const std::unique_ptr<Client> one = Connect(socket);
  const std::unique_ptr<Client> many = Connect(server.target());
  const Workload workload(8, 2048, 64);
  const auto units = [&] {
    const auto statistics = one->GetStatistics();
    if (!statistics.ok()) GiveUp(statistics.status().ToString());
    return static_cast<double>(statistics->units_computed());
  };
  ClosedLoopRate(*one, workload, 1, duration / 8);
  const double before_alone = units();
  const double alone = ClosedLoopRate(*one, workload, 1, duration / 2);
  const double units_alone = units() - before_alone;
  const Clock::duration warm_up = duration / 4;  // until all hundred are at work
  std::thread others([&] { ClosedLoopRate(*many, workload, kMany, warm_up + duration); });
  std::this_thread::sleep_for(warm_up);
  const double before = units();
  const double beside = ClosedLoopRate(*one, workload, 1, duration);
  const double units_beside = units() - before;
  others.join();
  const double units_of_one =
      beside * Seconds(duration) * units_alone / (alone * Seconds(duration / 2));
  std::printf("fairness: H8 S2048 D64; alone %.1f/s, beside 100 streams of another tenant %.1f/s\n",
              alone, beside);
  State("kept of what it has alone", beside / alone, "", '>', 0.4);
  State("of the device's units", units_of_one / units_beside, "", '>', 0.4);
}

int Main(int argc, char** argv) {
  const std::pair<const char*, void (*)(Clock::duration)> modes[] = {
      {"overload", OverloadOfDevice},
      {"queue", OverloadOfConnection},
      {"network", OverloadOfNetwork},
      {"deadline", Deadline},
      {"cancel", Cancel},
      {"restart", Restart},
      {"fairness", Fairness}};
  const auto seconds = std::chrono::seconds(argc > 2 ? std::atoi(argv[2]) : 20);
  if (argc > 3) backend = argv[3];
  for (const auto& [name, run] : modes) {
    if (argc < 2 || std::strcmp(argv[1], name) != 0) continue;
    run(seconds);
    return all_met ? 0 : 1;
  }
  GiveUp(
      "usage: operation_bench overload|queue|network|deadline|cancel|restart|fairness [SECONDS "
      "[BACKEND]]");
}

}  // namespace
}  // namespace sage::testing

int main(int argc, char** argv) { return sage::testing::Main(argc, argv); }
