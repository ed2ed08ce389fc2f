// What a small request costs beside its kernel when its operands are resident, and what resident k
// and v save of the upload.
//
//   resident_bench [ROUNDS]
//
// Runs a sage-server of its own, by TCP on loopback and by a Unix socket. Each round makes one
// empty call (GetInfo) and one Attend whose q, k and v are resident, so that a header goes up and
// 16 KiB of output a head come back, through ordinary blocking stubs. Overhead is the time of the
// call less that of the kernel. The load of the machine is in both, so that they are to be read
// together.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "sage/v1/attention.grpc.pb.h"
#include "sage/v1/server.grpc.pb.h"
#include "sage/v1/tensors.grpc.pb.h"
#include "tests/support/child_process.h"

namespace sage::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kQueries = 128;
constexpr std::int64_t kKeys = 128;
constexpr std::int64_t kHeadDim = 64;

[[noreturn]] void GiveUp(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

void Check(const grpc::Status& status) {
  if (!status.ok()) GiveUp(status.error_message());
}

struct Stubs {
  explicit Stubs(const std::string& target)
      : channel(grpc::CreateChannel(target, grpc::InsecureChannelCredentials())),
        tensors(v1::Tensors::NewStub(channel)),
        attention(v1::Attention::NewStub(channel)),
        server(v1::Server::NewStub(channel)) {}

  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Tensors::Stub> tensors;
  std::unique_ptr<v1::Attention::Stub> attention;
  std::unique_ptr<v1::Server::Stub> server;
};

v1::TensorHandle Put(Stubs& stubs, v1::TensorRole role, std::int64_t heads, std::int64_t seqlen) {
  v1::TensorSpec spec;
  spec.set_role(role);
  spec.set_dtype(v1::DATA_TYPE_FLOAT16);
  spec.set_layout(v1::LAYOUT_HND);
  spec.set_batch(1);
  spec.set_num_heads(heads);
  spec.set_seqlen(seqlen);
  spec.set_head_dim(kHeadDim);
  grpc::ClientContext context;
  v1::PutResponse response;
  const auto writer = stubs.tensors->Put(&context, &response);
  v1::PutRequest request;
  *request.mutable_spec() = spec;
  writer->Write(request);
  request.clear_spec();
  request.mutable_chunk()->set_tensor(role);
  request.set_data(std::string(heads * seqlen * kHeadDim * 2, '\x34'));  // 0x3434 is about 0.26
  writer->Write(request);
  writer->WritesDone();
  Check(writer->Finish());
  return response.handle();
}

v1::AttendRequest Request(std::int64_t heads) {
  v1::AttendRequest request;
  v1::AttendHeader& header = *request.mutable_header();
  header.mutable_shape()->set_batch(1);
  header.mutable_shape()->set_num_heads_q(heads);
  header.mutable_shape()->set_num_heads_kv(heads);
  header.mutable_shape()->set_seqlen_q(kQueries);
  header.mutable_shape()->set_seqlen_k(kKeys);
  header.mutable_shape()->set_head_dim(kHeadDim);
  header.set_dtype(v1::DATA_TYPE_FLOAT16);
  header.set_layout(v1::LAYOUT_HND);
  return request;
}

double Microseconds(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

double Percentile(std::vector<double>& values, double part) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(part * (values.size() - 1));
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

void Measure(const char* name, const std::string& target, std::int64_t heads, int rounds) {
  Stubs stubs(target);
  v1::AttendRequest whole = Request(heads);
  whole.set_q(std::string(heads * kQueries * kHeadDim * 2, '\x34'));
  whole.set_k(std::string(heads * kKeys * kHeadDim * 2, '\x34'));
  whole.set_v(whole.k());
  v1::AttendRequest keys_stay = Request(heads);
  keys_stay.set_q(whole.q());
  *keys_stay.mutable_header()->mutable_k()->mutable_handle() =
      Put(stubs, v1::TENSOR_ROLE_K, heads, kKeys);
  *keys_stay.mutable_header()->mutable_v()->mutable_handle() =
      Put(stubs, v1::TENSOR_ROLE_V, heads, kKeys);
  v1::AttendRequest all_stay = keys_stay;
  all_stay.clear_q();
  *all_stay.mutable_header()->mutable_q()->mutable_handle() =
      Put(stubs, v1::TENSOR_ROLE_Q, heads, kQueries);

  const auto attend = [&](const v1::AttendRequest& request) {
    grpc::ClientContext context;
    v1::AttendResponse response;
    Check(stubs.attention->Attend(&context, request, &response));
    return response.trailer();
  };
  std::vector<double> empty, overhead, kernel;
  for (int round = -rounds / 10; round < rounds; ++round) {
    const auto begin = Clock::now();
    {
      grpc::ClientContext context;
      v1::ServerInfo info;
      Check(stubs.server->GetInfo(&context, {}, &info));
    }
    const auto middle = Clock::now();
    const v1::AttendTrailer trailer = attend(all_stay);
    const auto end = Clock::now();
    if (round < 0) continue;  // warming up
    empty.push_back(Microseconds(middle - begin));
    kernel.push_back(1e6 * trailer.timings().kernel());
    overhead.push_back(Microseconds(end - middle) - kernel.back());
  }
  std::printf("H%d %-12s %8.0f %8.0f %8.0f %8.0f %8.0f\n", static_cast<int>(heads), name,
              Percentile(empty, 0.5), Percentile(overhead, 0.5), Percentile(overhead, 0.9),
              Percentile(kernel, 0.5), Percentile(overhead, 0.5) - Percentile(empty, 0.5));
  std::printf("   %-12s bytes up: %llu whole, %llu with resident k and v, %llu with q too\n", "",
              static_cast<unsigned long long>(attend(whole).bytes_in()),
              static_cast<unsigned long long>(attend(keys_stay).bytes_in()),
              static_cast<unsigned long long>(attend(all_stay).bytes_in()));
}

}  // namespace
}  // namespace sage::testing

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 5000;
  const sage::testing::ScratchFolder folder;
  const std::string socket = "unix:" + folder.File("socket");
  sage::testing::ChildProcess server(
      SAGE_SERVER_PROGRAM, {"--backend", "cpu", "--listen", "127.0.0.1:0", "--listen", socket,
                            "--port-file", folder.File("port"), "--log-level", "off"});
  if (!server.Await([&] { return !sage::testing::ReadFile(folder.File("port")).empty(); })) {
    sage::testing::GiveUp(server.err());
  }
  std::string port;
  std::ifstream(folder.File("port")) >> port;
  std::printf("B1 Sq%d Sk%d D%d fp16, qk_int8_pv_fp16, %d rounds; microseconds\n",
              static_cast<int>(sage::testing::kQueries), static_cast<int>(sage::testing::kKeys),
              static_cast<int>(sage::testing::kHeadDim), rounds);
  std::printf("%-15s %8s %8s %8s %8s %8s\n", "", "empty", "overhead", "p90", "kernel", "differ");
  for (const int heads : {1, 4}) {
    sage::testing::Measure("Unix socket", socket, heads, rounds);
    sage::testing::Measure("TCP", "127.0.0.1:" + port, heads, rounds);
  }
  return 0;
}
