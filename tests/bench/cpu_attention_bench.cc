// Speed of the CPU backend: effective rate by head_dim, sparsity and threads, the share that
// preparation takes, and, where built with oneDNN, the sgemm rate of the same run beside it.
//
//   cpu_attention_bench [seqlen] [heads]        (default 4096 4)
//
// Effective operations are 4 H S^2 D, skipped blocks counted as done. Each figure is the median of
// several runs after one that warms up.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "kernels/attention.h"
#include "kernels/block_mask.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/support/device_problem.h"
#include "tests/support/problem_generator.h"

#ifdef SAGE_BENCH_SGEMM
#include "dnnl.h"
#endif

namespace {

using sage::AttendTask;
using sage::AttentionProblem;
using sage::Backend;
using sage::BlockMask;
using sage::Event;
using sage::Memory;
using sage::Precision;
using sage::Stream;

template <typename Body>
double MedianSeconds(int runs, const Body& body) {
  std::vector<double> seconds(runs);
  for (double& s : seconds) s = body();
  std::nth_element(seconds.begin(), seconds.begin() + runs / 2, seconds.end());
  return seconds[runs / 2];
}

// The same number of listed blocks in every row, at random places.
std::vector<std::uint8_t> EqualRowsMask(const AttentionProblem& problem, double sparsity) {
  std::mt19937_64 random(1);
  const std::int64_t blocks = problem.blocks_k();
  const auto listed =
      std::max<std::int64_t>(1, std::llround((1 - sparsity) * static_cast<double>(blocks)));
  std::vector<std::uint8_t> dense;
  for (std::int64_t row = 0; row < problem.num_heads_q * problem.tiles_q(); ++row) {
    std::vector<std::uint8_t> bits(blocks, 0);
    std::fill_n(bits.begin(), listed, std::uint8_t{1});
    std::shuffle(bits.begin(), bits.end(), random);
    dense.insert(dense.end(), bits.begin(), bits.end());
  }
  return dense;
}

struct Times {
  double prepare;
  double attend;
};

Times Measure(Backend& backend, const AttentionProblem& problem,
              const sage::testing::ProblemData& data, double sparsity) {
  BlockMask mask;
  if (sparsity > 0) {
    mask = *BlockMask::FromDense(problem, 1, problem.num_heads_q, EqualRowsMask(problem, sparsity));
  }
  const std::unique_ptr<Stream> stream = *backend.CreateStream();
  const std::unique_ptr<Event> begin = *backend.CreateEvent();
  const std::unique_ptr<Event> end = *backend.CreateEvent();
  const sage::testing::DeviceProblem device(backend, *stream, problem, data, mask);
  const std::vector<AttendTask> tasks = device.Tasks();
  const Memory workspace =
      *backend.Allocate(sage::MemoryKind::kDevice, backend.AttendWorkspaceBytes(tasks));
  const auto timed = [&](const auto& issue) {
    (void)stream->Record(*begin);
    issue();
    (void)stream->Record(*end);
    if (!stream->Synchronize().ok()) std::abort();
    return *end->SecondsSince(*begin);
  };
  const auto prepare = [&] { return timed([&] { device.Prepare(*stream); }); };
  const auto attend = [&] { return timed([&] { (void)stream->Attend(tasks, workspace.data()); }); };
  prepare();
  attend();
  return {MedianSeconds(7, prepare), MedianSeconds(5, attend)};
}

#ifdef SAGE_BENCH_SGEMM
// fp32 matrix product of 2048 x 2048 x 2048 on all cores, in operations a second.
double SgemmRate() {
  constexpr std::int64_t kSize = 2048;
  const std::vector<float> a(kSize * kSize, 1.0F);
  const std::vector<float> b(kSize * kSize, 1.0F);
  std::vector<float> c(kSize * kSize);
  const auto run = [&] {
    const auto begin = std::chrono::steady_clock::now();
    dnnl_sgemm('N', 'N', kSize, kSize, kSize, 1.0F, a.data(), kSize, b.data(), kSize, 0.0F,
               c.data(), kSize);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  run();
  return 2.0 * kSize * kSize * kSize / MedianSeconds(5, run);
}
#endif

}  // namespace

int main(int argc, char** argv) {
  const std::int64_t seqlen = argc > 1 ? std::atoll(argv[1]) : 4096;
  const std::int64_t heads = argc > 2 ? std::atoll(argv[2]) : 4;
  const std::unique_ptr<Backend> all = *sage::CreateCpuBackend({});
  const std::unique_ptr<Backend> one = *sage::CreateCpuBackend({.num_threads = 1});
  std::printf("%s, %s, H%lld S%lld fp16\n", all->info().device_name.c_str(),
              all->info().kernel_path.c_str(), static_cast<long long>(heads),
              static_cast<long long>(seqlen));
#ifdef SAGE_BENCH_SGEMM
  std::printf("sgemm 2048 (oneDNN): %.0f GFLOP/s\n", SgemmRate() / 1e9);
#endif
  std::printf("%-16s %4s %8s %10s %8s %9s %8s %9s\n", "precision", "D", "sparsity", "attend ms",
              "GOP/s", "of dense", "prepare", "1 thread");
  for (const Precision precision :
       {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8, Precision::kFp16}) {
    for (const std::int64_t head_dim : {128, 64}) {
      AttentionProblem problem;
      problem.batch = 1;
      problem.num_heads_q = problem.num_heads_kv = heads;
      problem.seqlen_q = problem.seqlen_k = seqlen;
      problem.head_dim = head_dim;
      problem.precision = precision;
      const auto data = sage::testing::MakeData(problem, sage::testing::DataKind::kNormal, 1);
      double dense_seconds = 0;
      for (const double sparsity : {0.0, 0.5, 0.75, 0.9}) {
        const Times times = Measure(*all, problem, data, sparsity);
        if (sparsity == 0) dense_seconds = times.attend;
        std::printf("%-16s %4lld %7.0f%% %10.1f %8.0f %9.3f %7.2f%%", Name(precision).data(),
                    static_cast<long long>(head_dim), 100 * sparsity, 1e3 * times.attend,
                    problem.effective_operations() / times.attend / 1e9,
                    times.attend / dense_seconds, 100 * times.prepare / dense_seconds);
        if (sparsity == 0) {
          const Times single = Measure(*one, problem, data, sparsity);
          std::printf(" %8.2fx", single.attend / times.attend);
        }
        std::printf("\n");
        std::fflush(stdout);
      }
    }
  }
  return 0;
}
