// Speed of the CUDA backend in effective TOPS (4 B H S^2 D, halved when causal, skipped blocks
// counted as done), by precision, shape, sparsity and causality:
//   kernel  the attention alone
//   lists   the active-block lists and the order of work
//   prep    the quantisation of K
//   whole   the three of them in a row, as one call of the service runs them
// and beside it the relative L2 error of some rows of the first head, against the float64 oracle.
//
//   gpu_attention_bench [--csv | --json] [--dim D] [--seqlen S] [--sparsity X] [--precision NAME]
//                      [--repeats N]
//                      [--sm80]      the mma.sync kernels, also where the device has faster ones
//
// Short sequences come in batches: B is 8192 / S, at least 1.
// Inputs are N(0, 1), in fp16; masks list the same number of blocks in every row, at random. Three
// sets of inputs take turns, so that none is in L2 by itself. Clocks settle before the first row;
// figures are medians.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "kernels/backend.h"
#include "kernels/cuda/attend_launch.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/cuda_status.h"
#include "kernels/cuda/cuda_stream.h"
#include "kernels/cuda/device_check.h"
#include "kernels/cuda/device_state.h"
#include "kernels/cuda/resources.h"
#include "kernels/float16.h"
#include "kernels/reference/reference_attention.h"

namespace sage {
namespace {

constexpr int kInputSets = 3;

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "gpu_attention_bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T Require(absl::StatusOr<T> result) {
  Require(result.status());
  return *std::move(result);
}

struct Shape {
  std::int64_t batch, heads, seqlen, head_dim;
};

struct Row {
  Shape shape;
  Precision precision;
  double sparsity;
  bool is_causal;
};

// Seconds of each part, and the error.
struct Figures {
  double kernel, lists, prepare, whole;
  double relative_l2;
};

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

class Bench {
 public:
  explicit Bench(CudaKernelPath path)
      : backend_(Require(CreateCudaBackend({.kernel_path = path}))),
        device_(Require(cuda::CheckDevice(0, 0))),
        stream_(Require(cuda::CudaStream::Create(device_))),
        parts_(Require(cuda::CudaStream::Create(device_))) {
    Require(device_.LoadKernels(path));
    for (int i = 0; i < 6; ++i) events_.emplace_back(Require(cuda::MakeEvent(0)));
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    noise_.resize(std::size_t{1} << 22);
    for (std::uint16_t& element : noise_) element = ToFloat16(normal(random)).bits;
  }

  const std::string& device_name() const { return device_.properties().name; }

  Figures Measure(const Row& row, int repeats) {
    const Shape& shape = row.shape;
    const std::int64_t elements = shape.batch * shape.heads * shape.seqlen * shape.head_dim;
    std::vector<Memory> memory;
    const auto allocate = [&](std::size_t bytes) {
      memory.push_back(Require(backend_->Allocate(MemoryKind::kDevice, bytes)));
      return memory.back().data();
    };
    // Batch entries are more heads to a kernel.
    const std::int64_t heads = shape.batch * shape.heads;
    const std::vector<std::uint8_t> bits = Mask(row, heads);
    std::byte* const mask = allocate(bits.size());
    Require(stream_->CopyToDevice(mask, bits.data(), bits.size()));
    std::vector<AttendTask> tasks(kInputSets);
    std::vector<std::byte*> prepared(kInputSets);
    for (int set = 0; set < kInputSets; ++set) {
      AttendTask& task = tasks[set];
      const auto tensor = [&](int which) {
        std::byte* const data = allocate(elements * 2);
        Fill(data, elements, which + 3 * set);
        return ConstHeads{data, shape.seqlen * shape.head_dim, shape.head_dim};
      };
      task.q = tensor(0);
      task.kv = {.num_heads = heads,
                 .length_k = shape.seqlen,
                 .head_dim = shape.head_dim,
                 .precision = row.precision,
                 .k = tensor(1),
                 .v = tensor(2)};
      task.num_heads_q = heads;
      task.q_rows = task.length_q = shape.seqlen;
      task.is_causal = row.is_causal;
      task.softmax_scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
      task.out = {allocate(elements * 2), shape.seqlen * shape.head_dim, shape.head_dim};
      if (!bits.empty()) {
        const std::int64_t row_bytes = CeilDiv(CeilDiv(shape.seqlen, kBlockN), 8);
        task.mask = {reinterpret_cast<const std::uint8_t*>(mask),
                     CeilDiv(shape.seqlen, kBlockM) * row_bytes, row_bytes};
      }
      prepared[set] = allocate(backend_->PreparedKvBytes(task.kv));
      task.prepared_kv = prepared[set];
    }
    std::byte* const workspace = allocate(backend_->AttendWorkspaceBytes({tasks.data(), 1}));
    Require(stream_->Synchronize());

    // Until clocks have settled, and then `repeats` times.
    std::vector<double> kernel, lists, prepare, whole;
    double warm_seconds = 0;
    for (int i = 0; static_cast<int>(whole.size()) < repeats; ++i) {
      const int set = i % kInputSets;
      const cuda::AttendLaunch launch =
          Require(cuda::AttendLaunch::Create(device_, {&tasks[set], 1}, workspace));
      Record(*parts_, 0);
      Require(parts_->PrepareKv(tasks[set].kv, prepared[set]));
      Record(*parts_, 1);
      Check(launch.BuildLists(parts_->get()));
      Record(*parts_, 2);
      Check(launch.RunKernels(parts_->get()));
      Record(*parts_, 3);
      // The same as one call, whose parts overlap.
      Require(stream_->Wait(events_[3]));
      Record(*stream_, 4);
      Require(stream_->PrepareKv(tasks[set].kv, prepared[set]));
      Require(stream_->Attend({&tasks[set], 1}, workspace));
      Record(*stream_, 5);
      Require(stream_->Synchronize());
      constexpr double kWarmSeconds = 0.1;
      const double seconds = Seconds(0, 5);
      warm_seconds += seconds;
      if (warm_seconds - seconds < kWarmSeconds || i < kInputSets) continue;
      prepare.push_back(Seconds(0, 1));
      lists.push_back(Seconds(1, 2));
      kernel.push_back(Seconds(2, 3));
      whole.push_back(Seconds(4, 5));
    }
    return {Median(kernel), Median(lists), Median(prepare), Median(whole),
            RelativeL2(row, tasks[0], bits)};
  }

 private:
  static void Check(cudaError_t error) { Require(cuda::ToStatus(error, "measuring")); }
  void Record(cuda::CudaStream& stream, int event) { Require(stream.Record(events_[event])); }
  double Seconds(int from, int to) const {
    return Require(events_[to].SecondsSince(events_[from]));
  }

  // Of kCheckedRows rows of the first head, spread over the tiles.
  double RelativeL2(const Row& row, const AttendTask& task, const std::vector<std::uint8_t>& bits) {
    constexpr std::int64_t kCheckedRows = 16;
    const std::int64_t head_elements = row.shape.seqlen * row.shape.head_dim;
    const auto fetch = [&](const void* data) {
      std::vector<std::uint16_t> host(head_elements);
      Require(stream_->CopyToHost(host.data(), data, head_elements * 2));
      return host;
    };
    const std::vector<std::uint16_t> q = fetch(task.q.data);
    const std::vector<std::uint16_t> k = fetch(task.kv.k.data);
    const std::vector<std::uint16_t> v = fetch(task.kv.v.data);
    const std::vector<std::uint16_t> out = fetch(task.out.data);
    Require(stream_->Synchronize());
    AttentionProblem problem;
    problem.batch = problem.num_heads_q = problem.num_heads_kv = 1;
    problem.seqlen_q = problem.seqlen_k = row.shape.seqlen;
    problem.head_dim = row.shape.head_dim;
    problem.is_causal = row.is_causal;
    const std::int64_t tiles = CeilDiv(row.shape.seqlen, kBlockM);
    const std::int64_t blocks = CeilDiv(row.shape.seqlen, kBlockN);
    std::vector<std::uint8_t> dense(bits.empty() ? 0 : tiles * blocks);
    for (std::size_t i = 0; i < dense.size(); ++i) {
      const std::int64_t block = static_cast<std::int64_t>(i) % blocks;
      const std::int64_t tile = static_cast<std::int64_t>(i) / blocks;
      dense[i] = bits[tile * CeilDiv(blocks, 8) + block / 8] >> (block % 8) & 1;
    }
    const ReferenceInputs inputs = {.q = q.data(),
                                    .k = k.data(),
                                    .v = v.data(),
                                    .mask = dense.empty() ? nullptr : dense.data()};
    SimilarityAccumulator similarity;
    for (std::int64_t i = 0; i < kCheckedRows; ++i) {
      const std::int64_t r = (2 * i + 1) * row.shape.seqlen / (2 * kCheckedRows);
      const ReferenceRow want = ReferenceAttentionRow(problem, inputs, 0, 0, r);
      for (std::int64_t d = 0; d < row.shape.head_dim; ++d) {
        similarity.Add(ToFloat(Float16{out[r * row.shape.head_dim + d]}), want.out[d]);
      }
    }
    return similarity.Result().relative_l2;
  }

  // Repeats the noise, each tensor from another place.
  void Fill(std::byte* data, std::int64_t elements, int which) {
    std::size_t begin = static_cast<std::size_t>(which) * 100003 * 8 % noise_.size();
    for (std::int64_t done = 0; done < elements;) {
      const auto count =
          std::min<std::int64_t>(elements - done, static_cast<std::int64_t>(noise_.size() - begin));
      Require(stream_->CopyToDevice(data + done * 2, noise_.data() + begin, count * 2));
      done += count;
      begin = 0;
    }
  }

  // Packed bits [heads, tiles, row bytes]; empty for none.
  static std::vector<std::uint8_t> Mask(const Row& row, std::int64_t heads) {
    std::vector<std::uint8_t> bits;
    if (row.sparsity == 0) return bits;
    const std::int64_t blocks = CeilDiv(row.shape.seqlen, kBlockN);
    const std::int64_t rows = heads * CeilDiv(row.shape.seqlen, kBlockM);
    const std::int64_t row_bytes = CeilDiv(blocks, 8);
    const auto listed =
        std::max<std::int64_t>(1, std::llround((1 - row.sparsity) * static_cast<double>(blocks)));
    std::mt19937 random(1);
    std::vector<std::int64_t> order(blocks);
    for (std::int64_t i = 0; i < blocks; ++i) order[i] = i;
    bits.assign(rows * row_bytes, 0);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::shuffle(order.begin(), order.end(), random);
      for (std::int64_t i = 0; i < listed; ++i) {
        bits[r * row_bytes + order[i] / 8] |= 1U << (order[i] % 8);
      }
    }
    return bits;
  }

  std::unique_ptr<Backend> backend_;  // for memory
  cuda::DeviceState device_;
  std::unique_ptr<cuda::CudaStream> stream_;
  std::unique_ptr<cuda::CudaStream> parts_;
  std::vector<cuda::CudaEvent> events_;
  std::vector<std::uint16_t> noise_;
};

struct Options {
  enum class Format { kTable, kCsv, kJson } format = Format::kTable;
  std::int64_t head_dim = 0;  // 0: all
  std::int64_t seqlen = 0;    // 0: the usual ones
  std::string precision;      // empty: all
  double sparsity = -1;       // negative: the usual ones, and causal
  int repeats = 15;
  CudaKernelPath path = CudaKernelPath::kAuto;
};

Options ParseOptions(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const char* const value = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--csv") {
      options.format = Options::Format::kCsv;
    } else if (flag == "--json") {
      options.format = Options::Format::kJson;
    } else if (flag == "--dim") {
      options.head_dim = std::atoll(value), ++i;
    } else if (flag == "--seqlen") {
      options.seqlen = std::atoll(value), ++i;
    } else if (flag == "--precision") {
      options.precision = value, ++i;
    } else if (flag == "--sparsity") {
      options.sparsity = std::atof(value), ++i;
    } else if (flag == "--sm80") {
      options.path = CudaKernelPath::kSm80;
    } else if (flag == "--repeats") {
      options.repeats = std::max(1, std::atoi(value)), ++i;
    } else {
      std::fprintf(stderr,
                   "usage: gpu_attention_bench [--csv | --json] [--dim D] [--seqlen S] "
                   "[--sparsity X] [--precision NAME] [--repeats N] [--sm80]\n");
      std::exit(2);
    }
  }
  return options;
}

std::vector<Row> Rows(const Options& options) {
  std::vector<std::int64_t> seqlens = {2048, 8192, 32768};
  if (options.seqlen != 0) seqlens = {options.seqlen};
  std::vector<Row> rows;
  for (const Precision precision :
       {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8, Precision::kFp16}) {
    if (!options.precision.empty() && options.precision != Name(precision)) continue;
    for (const std::int64_t head_dim : {128, 64}) {
      if (options.head_dim != 0 && options.head_dim != head_dim) continue;
      for (const std::int64_t seqlen : seqlens) {
        const Shape shape = {std::max<std::int64_t>(1, 8192 / seqlen), 32, seqlen, head_dim};
        if (options.sparsity >= 0) {
          rows.push_back({shape, precision, options.sparsity, false});
          continue;
        }
        for (const double sparsity : {0.0, 0.25, 0.5, 0.75, 0.9}) {
          rows.push_back({shape, precision, sparsity, false});
        }
        rows.push_back({shape, precision, 0.0, true});
      }
    }
  }
  return rows;
}

void PrintHeader(const Options& options, const std::string& device) {
  switch (options.format) {
    case Options::Format::kTable:
      std::printf("%s; medians of %d; times in ms, rates in effective TOPS\n", device.c_str(),
                  options.repeats);
      std::printf("%-16s %2s %3s %6s %4s %8s %6s %9s %7s %7s %8s %8s %7s\n", "precision", "B", "H",
                  "S", "D", "sparsity", "causal", "kernel ms", "lists", "prep", "kernel", "whole",
                  "rel L2");
      break;
    case Options::Format::kCsv:
      std::printf(
          "device,precision,batch,heads,seqlen,head_dim,sparsity,causal,kernel_ms,lists_ms,"
          "prepare_ms,whole_ms,kernel_tops,whole_tops,relative_l2\n");
      break;
    case Options::Format::kJson:
      std::printf("[");
      break;
  }
}

void PrintRow(const Options& options, const std::string& device, const Row& row,
              const Figures& times, bool first) {
  const Shape& s = row.shape;
  const double operations = 4.0 * static_cast<double>(s.batch * s.heads * s.head_dim) *
                            static_cast<double>(s.seqlen) * static_cast<double>(s.seqlen) *
                            (row.is_causal ? 0.5 : 1.0);
  const double kernel_tops = operations / times.kernel * 1e-12;
  const double whole_tops = operations / times.whole * 1e-12;
  const std::string precision(Name(row.precision));
  const auto number = [](std::int64_t n) { return static_cast<long long>(n); };
  switch (options.format) {
    case Options::Format::kTable:
      std::printf("%-16s %2lld %3lld %6lld %4lld %8.2f %6s %9.3f %7.3f %7.3f %8.1f %8.1f %7.5f\n",
                  precision.c_str(), number(s.batch), number(s.heads), number(s.seqlen),
                  number(s.head_dim), row.sparsity, row.is_causal ? "yes" : "no",
                  times.kernel * 1e3, times.lists * 1e3, times.prepare * 1e3, kernel_tops,
                  whole_tops, times.relative_l2);
      break;
    case Options::Format::kCsv:
      std::printf("%s,%s,%lld,%lld,%lld,%lld,%.2f,%d,%.6f,%.6f,%.6f,%.6f,%.1f,%.1f,%.6f\n",
                  device.c_str(), precision.c_str(), number(s.batch), number(s.heads),
                  number(s.seqlen), number(s.head_dim), row.sparsity, row.is_causal ? 1 : 0,
                  times.kernel * 1e3, times.lists * 1e3, times.prepare * 1e3, times.whole * 1e3,
                  kernel_tops, whole_tops, times.relative_l2);
      break;
    case Options::Format::kJson:
      std::printf(
          "%s\n  {\"device\": \"%s\", \"precision\": \"%s\", \"batch\": %lld, \"heads\": %lld, "
          "\"seqlen\": %lld, \"head_dim\": %lld, \"sparsity\": %.2f, \"causal\": %s, "
          "\"kernel_ms\": %.6f, \"lists_ms\": %.6f, \"prepare_ms\": %.6f, \"whole_ms\": %.6f, "
          "\"kernel_tops\": %.1f, \"whole_tops\": %.1f, \"relative_l2\": %.6f}",
          first ? "" : ",", device.c_str(), precision.c_str(), number(s.batch), number(s.heads),
          number(s.seqlen), number(s.head_dim), row.sparsity, row.is_causal ? "true" : "false",
          times.kernel * 1e3, times.lists * 1e3, times.prepare * 1e3, times.whole * 1e3,
          kernel_tops, whole_tops, times.relative_l2);
      break;
  }
  std::fflush(stdout);
}

}  // namespace
}  // namespace sage

int main(int argc, char** argv) {
  const sage::Options options = sage::ParseOptions(argc, argv);
  sage::Bench bench(options.path);
  sage::PrintHeader(options, bench.device_name());
  bool first = true;
  for (const sage::Row& row : sage::Rows(options)) {
    sage::PrintRow(options, bench.device_name(), row, bench.Measure(row, options.repeats), first);
    first = false;
  }
  if (options.format == sage::Options::Format::kJson) std::printf("\n]\n");
  return 0;
}
