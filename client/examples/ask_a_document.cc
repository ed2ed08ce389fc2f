// Keys and values stay at the server: a document is put there once, and many questions attend to
// it.
//
//   ask_a_document HOST:PORT
//
// A document of 4096 tokens is its keys and values; a question is 128 queries. Each question is
// asked twice, with the document resident and with all of it in the request, and the answers are
// compared bit by bit.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "client/client.h"
#include "client/remote_tensor.h"
#include "kernels/float16.h"

namespace {

// Random fp16 elements, standing in for what a model computes.
std::vector<sage::Float16> RandomTensor(std::int64_t elements, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<sage::Float16> tensor(elements);
  for (sage::Float16& x : tensor) x = sage::ToFloat16(normal(random));
  return tensor;
}

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: ask_a_document HOST:PORT\n");
    return 2;
  }
  auto client = sage::Client::Connect({.target = argv[1]});
  if (!client.ok()) return Fail(client.status());

  sage::AttentionProblem problem;
  problem.batch = 1;
  problem.num_heads_q = 8;
  problem.num_heads_kv = 2;
  problem.seqlen_q = 128;
  problem.seqlen_k = 4096;
  problem.head_dim = 64;

  std::mt19937_64 random(1);
  const std::vector<sage::Float16> k = RandomTensor(problem.kv_elements(), random);
  const std::vector<sage::Float16> v = RandomTensor(problem.kv_elements(), random);

  // `k` and `v` stay alive as long as these do, which put them again should the server restart.
  auto remote_k = (*client)->Put(sage::TensorRole::kK, problem, k.data());
  if (!remote_k.ok()) return Fail(remote_k.status());
  auto remote_v = (*client)->Put(sage::TensorRole::kV, problem, v.data());
  if (!remote_v.ok()) return Fail(remote_v.status());

  for (int question = 1; question <= 3; ++question) {
    const std::vector<sage::Float16> q = RandomTensor(problem.q_elements(), random);
    std::vector<sage::Float16> answer(problem.q_elements());
    sage::AttendRequest request;
    request.problem = problem;
    request.q = q.data();
    request.resident.k = &*remote_k;
    request.resident.v = &*remote_v;
    request.out = answer.data();
    const auto resident = (*client)->Attend(request);
    if (!resident.ok()) return Fail(resident.status());

    std::vector<sage::Float16> whole_answer(problem.q_elements());
    request.resident = {};
    request.k = k.data();
    request.v = v.data();
    request.out = whole_answer.data();
    const auto whole = (*client)->Attend(request);
    if (!whole.ok()) return Fail(whole.status());

    const bool same =
        std::memcmp(answer.data(), whole_answer.data(), answer.size() * sizeof(sage::Float16)) == 0;
    std::printf("question %d: %llu bytes sent, %llu with the document; %s\n", question,
                static_cast<unsigned long long>(resident->bytes_in),
                static_cast<unsigned long long>(whole->bytes_in),
                same ? "the same answer" : "ANOTHER ANSWER");
    if (!same) return 1;
  }
  return 0;  // the tensors are released on the way out
}
