#include "tests/support/device_problem.h"

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/quantize_tensor.h"

namespace sage::testing {
namespace {

void Require(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "backend failed in a test: %s\n", status.ToString().c_str());
  std::abort();
}

template <typename T>
T Require(absl::StatusOr<T> result) {
  Require(result.status());
  return *std::move(result);
}

template <typename T>
Memory Upload(Backend& backend, Stream& stream, std::span<const T> data) {
  Memory memory = Require(backend.Allocate(MemoryKind::kDevice, data.size_bytes()));
  Require(stream.CopyToDevice(memory.data(), data.data(), data.size_bytes()));
  return memory;
}

// Device memory of bytes that read as NaN, so that use of what nobody wrote shows.
Memory AllocatePoisoned(Backend& backend, Stream& stream, std::size_t bytes) {
  const std::vector<std::byte> poison(bytes, std::byte{0xff});
  Memory memory = Upload(backend, stream, std::span(poison));
  Require(stream.Synchronize());
  return memory;
}

// Head 0, row 0 of batch entry `b` of a tensor [batch, heads, seqlen, head_dim] or its NHD form.
template <typename Pointer>
StridedHeads<Pointer> HeadsOf(const AttentionProblem& problem, std::byte* base, std::int64_t b,
                              std::int64_t heads, std::int64_t seqlen, std::size_t element_bytes) {
  const std::int64_t dim = problem.head_dim;
  const bool hnd = problem.layout == Layout::kHnd;
  return {.data = base + b * heads * seqlen * dim * element_bytes,
          .head_stride = hnd ? seqlen * dim : dim,
          .row_stride = hnd ? dim : heads * dim};
}

// Rows that do not exist are not to be used; an empty `lengths` is full length everywhere.
void PoisonPastTheLengths(const AttentionProblem& problem, std::int64_t heads, std::int64_t seqlen,
                          const std::vector<std::int64_t>& lengths,
                          std::vector<std::int8_t>* values) {
  for (std::size_t i = 0; i < values->size() && !lengths.empty(); ++i) {
    const auto token = static_cast<std::int64_t>(i) / problem.head_dim;
    const std::int64_t row =
        problem.layout == Layout::kHnd ? token % seqlen : token / heads % seqlen;
    if (row >= lengths[token / (heads * seqlen)]) (*values)[i] = 0x55;
  }
}

}  // namespace

DeviceProblem::DeviceProblem(Backend& backend, Stream& stream, const AttentionProblem& problem,
                             const ProblemData& data, BlockMask mask, Prequantized prequantized)
    : problem_(problem), mask_(std::move(mask)), prequantized_(prequantized) {
  const PoisonedOutput poison(problem);
  const std::vector<float> smoothing = ComputeSmoothing(problem, data.k.data());
  QuantizedTensor q8;
  std::vector<float> dots;
  if (prequantized.q) {
    q8 = QuantizeQueries(problem, data.q.data());
    dots = QueryDotSmoothing(problem, data.q.data(), smoothing);
    PoisonPastTheLengths(problem, problem.num_heads_q, problem.seqlen_q, problem.seqlens_q,
                         &q8.values);
    q_ = Upload(backend, stream, std::span<const std::int8_t>(q8.values));
    q_scales_ = Upload(backend, stream, std::span<const float>(q8.scales));
    q_dots_ = Upload(backend, stream, std::span<const float>(dots));
  } else {
    q_ = Upload(backend, stream, std::span(data.q));
  }
  QuantizedTensor k8;
  if (prequantized.k) {
    k8 = QuantizeKeys(problem, data.k.data(), smoothing);
    PoisonPastTheLengths(problem, problem.num_heads_kv, problem.seqlen_k, problem.seqlens_k,
                         &k8.values);
    k_ = Upload(backend, stream, std::span<const std::int8_t>(k8.values));
    k_scales_ = Upload(backend, stream, std::span<const float>(k8.scales));
    smoothing_ = Upload(backend, stream, std::span(smoothing));
  } else {
    k_ = Upload(backend, stream, std::span(data.k));
  }
  v_ = Upload(backend, stream, std::span(data.v));
  mask_bits_ = Upload(backend, stream, mask_.bits());
  out_ = Upload(backend, stream, std::span(poison.out));
  lse_ = Upload(backend, stream, std::span(poison.lse));
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const std::int64_t heads = problem.num_heads_kv;
    const std::size_t width = SizeOf(problem.dtype);
    kv_tasks_.push_back(
        {.num_heads = heads,
         .length_k = problem.length_k(b),
         .head_dim = problem.head_dim,
         .dtype = problem.dtype,
         .precision = problem.precision,
         .k = HeadsOf<const void*>(problem, k_.data(), b, heads, problem.seqlen_k,
                                   prequantized.k ? 1 : width),
         .v = HeadsOf<const void*>(problem, v_.data(), b, heads, problem.seqlen_k, width)});
    if (prequantized.k) {
      kv_tasks_.back().k_scales = {.scales = reinterpret_cast<const float*>(k_scales_.data()) +
                                             b * heads * problem.blocks_k(),
                                   .head_stride = problem.blocks_k(),
                                   .smoothing = reinterpret_cast<const float*>(smoothing_.data()) +
                                                b * heads * problem.head_dim};
    }
    const std::size_t bytes = backend.PreparedKvBytes(kv_tasks_.back());
    prepared_.push_back(AllocatePoisoned(backend, stream, bytes));
  }
  Require(stream.Synchronize());  // what was made here has been copied
}

void DeviceProblem::Prepare(Stream& stream) const {
  for (std::size_t b = 0; b < kv_tasks_.size(); ++b) {
    Require(stream.PrepareKv(kv_tasks_[b], prepared_[b].data()));
  }
}

std::vector<AttendTask> DeviceProblem::Tasks(std::int64_t tiles) const {
  const std::int64_t rows = (tiles == 0 ? problem_.tiles_q() : tiles) * kBlockM;
  std::vector<AttendTask> tasks;
  for (std::int64_t b = 0; b < problem_.batch; ++b) {
    for (std::int64_t begin = 0; begin < problem_.seqlen_q; begin += rows) {
      AttendTask task;
      task.kv = kv_tasks_[b];
      task.prepared_kv = prepared_[b].data();
      task.num_heads_q = problem_.num_heads_q;
      task.q_begin = begin;
      task.q_rows = std::min(rows, problem_.seqlen_q - begin);
      task.length_q = problem_.length_q(b);
      task.is_causal = problem_.is_causal;
      task.softmax_scale = problem_.scale();
      task.output_dtype = problem_.output_dtype;
      const std::size_t q_width = prequantized_.q ? 1 : SizeOf(problem_.dtype);
      task.q = HeadsOf<const void*>(problem_, q_.data(), b, problem_.num_heads_q, problem_.seqlen_q,
                                    q_width);
      task.q.data =
          static_cast<const std::byte*>(task.q.data) + begin * task.q.row_stride * q_width;
      if (prequantized_.q) {
        const std::int64_t row = b * problem_.num_heads_q * problem_.seqlen_q + begin;
        task.q_scales = {.scales = reinterpret_cast<const float*>(q_scales_.data()) + row,
                         .dot_smoothing = reinterpret_cast<const float*>(q_dots_.data()) + row,
                         .head_stride = problem_.seqlen_q};
      }
      task.out = HeadsOf<void*>(problem_, out_.data(), b, problem_.num_heads_q, problem_.seqlen_q,
                                SizeOf(problem_.output_dtype));
      task.out.data = static_cast<std::byte*>(task.out.data) +
                      begin * task.out.row_stride * SizeOf(problem_.output_dtype);
      if (!mask_.full()) {
        task.mask =
            mask_.RebasedView(reinterpret_cast<const std::uint8_t*>(mask_bits_.data()), b, 0);
      }
      if (problem_.return_lse) {
        // Heads of a task's lse are q_rows apart, so those of a range lie together.
        task.lse = reinterpret_cast<float*>(lse_.data()) +
                   problem_.num_heads_q * (b * problem_.seqlen_q + begin);
      }
      tasks.push_back(task);
    }
  }
  return tasks;
}

PoisonedOutput DeviceProblem::Download(Stream& stream, std::int64_t tiles) const {
  PoisonedOutput output(problem_);
  std::vector<float> lse(output.lse.size());
  Require(stream.CopyToHost(output.out.data(), out_.data(), output.out.size()));
  Require(stream.CopyToHost(lse.data(), lse_.data(), lse.size() * sizeof(float)));
  Require(stream.Synchronize());
  // From ranges of tasks to [batch, num_heads_q, seqlen_q].
  const std::int64_t rows = (tiles == 0 ? problem_.tiles_q() : tiles) * kBlockM;
  const float* from = lse.data();
  for (std::int64_t b = 0; b < problem_.batch; ++b) {
    for (std::int64_t begin = 0; begin < problem_.seqlen_q; begin += rows) {
      const std::int64_t count = std::min(rows, problem_.seqlen_q - begin);
      for (std::int64_t head = 0; head < problem_.num_heads_q; ++head, from += count) {
        std::copy(
            from, from + count,
            output.lse.begin() + (b * problem_.num_heads_q + head) * problem_.seqlen_q + begin);
      }
    }
  }
  return output;
}

PoisonedOutput RunProblem(Backend& backend, const AttentionProblem& problem,
                          const ProblemData& data, const BlockMask& mask,
                          std::int64_t tiles_per_task, Prequantized prequantized) {
  const std::unique_ptr<Stream> stream = Require(backend.CreateStream());
  const DeviceProblem device(backend, *stream, problem, data, mask, prequantized);
  device.Prepare(*stream);
  const std::vector<AttendTask> tasks = device.Tasks(tiles_per_task);
  const Memory workspace = AllocatePoisoned(backend, *stream, backend.AttendWorkspaceBytes(tasks));
  Require(stream->Attend(tasks, workspace.data()));
  return device.Download(*stream, tiles_per_task);
}

}  // namespace sage::testing
