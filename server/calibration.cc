#include "server/calibration.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <utility>

namespace sage::server {
namespace {

constexpr int kRuns = 3;
constexpr std::uint64_t kCopyBytes = 4 << 20;
// Below this, nothing can be told from the clock's own steps.
constexpr double kShortest = 1e-7;

// Runs things on a stream and says how long the device took for them.
class Stopwatch {
 public:
  static absl::StatusOr<Stopwatch> Create(Backend& backend) {
    Stopwatch watch;
    absl::StatusOr<std::unique_ptr<Stream>> stream = backend.CreateStream();
    if (!stream.ok()) return stream.status();
    watch.stream_ = *std::move(stream);
    for (std::unique_ptr<Event>& event : watch.events_) {
      absl::StatusOr<std::unique_ptr<Event>> created = backend.CreateEvent();
      if (!created.ok()) return created.status();
      event = *std::move(created);
    }
    return watch;
  }

  // Seconds of the fastest of some runs of `issue`.
  absl::StatusOr<double> Time(const std::function<absl::Status(Stream&)>& issue) {
    double fastest = std::numeric_limits<double>::max();
    for (int run = 0; run < kRuns; ++run) {
      absl::Status status = stream_->Record(*events_[0]);
      if (status.ok()) status = issue(*stream_);
      if (status.ok()) status = stream_->Record(*events_[1]);
      if (status.ok()) status = stream_->Synchronize();
      if (!status.ok()) return status;
      const absl::StatusOr<double> seconds = events_[1]->SecondsSince(*events_[0]);
      if (!seconds.ok()) return seconds.status();
      fastest = std::min(fastest, *seconds);
    }
    return std::max(fastest, kShortest);
  }

 private:
  std::unique_ptr<Stream> stream_;
  std::array<std::unique_ptr<Event>, 2> events_;
};

// One attention without a mask on zeros, all memory its own.
class Sample {
 public:
  static absl::StatusOr<Sample> Create(Backend& backend, Precision precision, std::int64_t heads,
                                       std::int64_t seqlen, std::int64_t head_dim,
                                       Stopwatch& watch) {
    Sample sample;
    const std::uint64_t bytes = heads * seqlen * head_dim * SizeOf(DType::kFloat16);
    absl::StatusOr<Memory> zeros = backend.Allocate(MemoryKind::kHost, bytes);
    if (!zeros.ok()) return zeros.status();
    std::memset(zeros->data(), 0, bytes);
    AttendTask& task = sample.task_;
    task.kv.num_heads = task.num_heads_q = heads;
    task.kv.length_k = task.length_q = task.q_rows = seqlen;
    task.kv.head_dim = head_dim;
    task.kv.precision = precision;
    task.out.head_stride = seqlen * head_dim;
    task.out.row_stride = head_dim;
    const std::array<std::pair<Memory*, std::uint64_t>, 4> wanted = {
        {{&sample.in_, bytes},
         {&sample.out_, bytes},
         {&sample.prepared_, backend.PreparedKvBytes(task.kv)},
         {&sample.workspace_, backend.AttendWorkspaceBytes({&task, 1})}}};
    for (const auto& [memory, size] : wanted) {
      if (size == 0) continue;
      absl::StatusOr<Memory> allocated = backend.Allocate(MemoryKind::kDevice, size);
      if (!allocated.ok()) return allocated.status();
      *memory = *std::move(allocated);
    }
    task.out.data = sample.out_.data();
    task.prepared_kv = sample.prepared_.data();
    task.q = {sample.in_.data(), seqlen * head_dim, head_dim};
    task.kv.k = task.kv.v = task.q;
    const absl::Status zeroed =
        watch
            .Time([&](Stream& stream) {
              return stream.CopyToDevice(sample.in_.data(), zeros->data(), bytes);
            })
            .status();
    if (!zeroed.ok()) return zeroed;
    return sample;
  }

  absl::Status Prepare(Stream& stream) { return stream.PrepareKv(task_.kv, prepared_.data()); }
  absl::Status Attend(Stream& stream) { return stream.Attend({&task_, 1}, workspace_.data()); }

 private:
  Memory in_, out_, prepared_, workspace_;
  AttendTask task_;
};

bool Supports(const Backend& backend, Precision precision, std::int64_t head_dim) {
  AttentionProblem problem;
  problem.batch = problem.num_heads_q = problem.num_heads_kv = 1;
  problem.seqlen_q = problem.seqlen_k = 1;
  problem.head_dim = head_dim;
  problem.precision = precision;
  return backend.CheckSupported(problem).ok();
}

}  // namespace

absl::StatusOr<CostModel::Rates> MeasureRates(Backend& backend, double operations) {
  CostModel::Rates rates = {};
  absl::StatusOr<Stopwatch> watch = Stopwatch::Create(backend);
  if (!watch.ok()) return watch.status();

  absl::StatusOr<Sample> least = Sample::Create(backend, Precision::kFp16, 1, 1, 64, *watch);
  if (!least.ok()) return least.status();
  const absl::StatusOr<double> launch = watch->Time([&](Stream& stream) {
    absl::Status status = least->Prepare(stream);
    return status.ok() ? least->Attend(stream) : status;
  });
  if (!launch.ok()) return launch.status();
  rates[DeviceWork::kLaunches] = *launch;

  // A slow device is measured by less.
  constexpr std::int64_t kProbeLength = 512;
  constexpr double kLongest = 5e-3;  // seconds
  absl::StatusOr<Sample> probe =
      Sample::Create(backend, Precision::kFp16, 1, kProbeLength, 64, *watch);
  if (!probe.ok()) return probe.status();
  const absl::StatusOr<double> probed = watch->Time([&](Stream& stream) {
    absl::Status status = probe->Prepare(stream);
    return status.ok() ? probe->Attend(stream) : status;
  });
  if (!probed.ok()) return probed.status();
  operations = std::min(operations, kLongest / *probed * 4.0 * 64 * kProbeLength * kProbeLength);

  // Sequences long enough for a GPU's tiles, and enough heads to fill it.
  const std::int64_t seqlen = operations > 1e10 ? 2048 : 512;
  for (const Precision precision :
       {Precision::kQkInt8PvFp16, Precision::kQkInt8PvFp8, Precision::kFp16}) {
    for (const std::int64_t head_dim : {64, 128}) {
      if (!Supports(backend, precision, head_dim)) continue;
      const double of_a_head = 4.0 * static_cast<double>(seqlen * seqlen * head_dim);
      const auto heads = std::max<std::int64_t>(1, std::llround(operations / of_a_head));
      absl::StatusOr<Sample> sample =
          Sample::Create(backend, precision, heads, seqlen, head_dim, *watch);
      if (!sample.ok()) return sample.status();
      const absl::StatusOr<double> prepare =
          watch->Time([&](Stream& stream) { return sample->Prepare(stream); });
      if (!prepare.ok()) return prepare.status();
      const absl::StatusOr<double> attend =
          watch->Time([&](Stream& stream) { return sample->Attend(stream); });
      if (!attend.ok()) return attend.status();
      rates[DeviceWork::ElementsPrepared(precision)] =
          *prepare / static_cast<double>(heads * seqlen * head_dim);
      rates[DeviceWork::Operations(precision, head_dim)] =
          std::max(*attend - *launch, kShortest) / (static_cast<double>(heads) * of_a_head);
    }
  }

  if (backend.info().unified_memory) return rates;
  absl::StatusOr<Memory> host = backend.Allocate(MemoryKind::kHost, kCopyBytes);
  if (!host.ok()) return host.status();
  absl::StatusOr<Memory> device = backend.Allocate(MemoryKind::kDevice, kCopyBytes);
  if (!device.ok()) return device.status();
  std::memset(host->data(), 0, kCopyBytes);
  const absl::StatusOr<double> copy = watch->Time([&](Stream& stream) {
    return stream.CopyToDevice(device->data(), host->data(), kCopyBytes);
  });
  if (!copy.ok()) return copy.status();
  rates[DeviceWork::kBytesCopied] = *copy / static_cast<double>(kCopyBytes);
  return rates;
}

}  // namespace sage::server
