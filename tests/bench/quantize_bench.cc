// Speed of quantisation on the host, as a client does it before it sends int8: GB of 16-bit
// elements a second, on one thread.
//
//   quantize_bench [seqlen] [heads]        (default 8192 8), head_dim 128
//
// Each figure is the median of several runs.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/attention.h"
#include "kernels/quantize_tensor.h"
#include "tests/support/problem_generator.h"

namespace {

template <typename Body>
void Measure(const char* name, std::size_t bytes, const Body& body) {
  std::array<double, 7> seconds;
  for (double& s : seconds) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    s = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  std::printf("%-10s %6.2f GB/s\n", name,
              static_cast<double>(bytes) / seconds[seconds.size() / 2] / 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  sage::AttentionProblem problem;
  problem.batch = 1;
  problem.seqlen_q = problem.seqlen_k = argc > 1 ? std::atoll(argv[1]) : 8192;
  problem.num_heads_q = problem.num_heads_kv = argc > 2 ? std::atoll(argv[2]) : 8;
  problem.head_dim = 128;
  if (!sage::ValidateProblem(problem).ok()) {
    std::fprintf(stderr, "quantize_bench [seqlen] [heads]: both from 1 on\n");
    return 2;
  }
  for (const sage::DType dtype : {sage::DType::kFloat16, sage::DType::kBFloat16}) {
    problem.dtype = dtype;
    const auto data = sage::testing::MakeData(problem, sage::testing::DataKind::kNormal, 1);
    const std::vector<float> c = sage::ComputeSmoothing(problem, data.k.data());
    std::printf("%s\n", dtype == sage::DType::kFloat16 ? "fp16" : "bf16");
    Measure("smoothing", data.k.size(), [&] { sage::ComputeSmoothing(problem, data.k.data()); });
    Measure("k", data.k.size(), [&] { sage::QuantizeKeys(problem, data.k.data(), c); });
    Measure("q", data.q.size(), [&] { sage::QuantizeQueries(problem, data.q.data()); });
    Measure("q.c", data.q.size(), [&] { sage::QueryDotSmoothing(problem, data.q.data(), c); });
  }
}
