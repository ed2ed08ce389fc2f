#include "server/unit_tasks.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

namespace sage::server {
namespace {

// Where a unit's heads and rows lie in a resident tensor, which is whole.
StridedHeads<std::byte*> HeadsIn(const ResidentTensor& tensor, std::int64_t batch,
                                 std::int64_t head, std::int64_t row) {
  const TensorSpec& spec = tensor.spec();
  const std::int64_t element = SizeOf(spec.dtype);
  if (spec.layout == Layout::kHnd) {
    const std::int64_t rows = (batch * spec.num_heads + head) * spec.seqlen + row;
    return {tensor.data() + rows * spec.head_dim * element, spec.seqlen * spec.head_dim,
            spec.head_dim};
  }
  const std::int64_t heads = (batch * spec.seqlen + row) * spec.num_heads + head;
  return {tensor.data() + heads * spec.head_dim * element, spec.head_dim,
          spec.num_heads * spec.head_dim};
}

ConstHeads ToConst(const StridedHeads<std::byte*>& heads) {
  return {heads.data, heads.head_stride, heads.row_stride};
}

// A unit's piece is a packed tensor of its own in the request's layout.
template <typename Pointer>
StridedHeads<Pointer> PackedHeads(Pointer data, Layout layout, std::int64_t heads,
                                  std::int64_t rows, std::int64_t head_dim) {
  if (layout == Layout::kHnd) return {data, rows * head_dim, head_dim};
  return {data, head_dim, heads * head_dim};
}

}  // namespace

UnitTasks::UnitTasks(const AttentionProblem& problem, ResidentOperands resident,
                     std::shared_ptr<RequestContext> context)
    : problem_(problem), resident_(std::move(resident)), context_(std::move(context)) {}

KvTask UnitTasks::MakeKv(const Unit& unit) const {
  KvTask task;
  task.num_heads = unit.kv_head_count;
  task.length_k = problem_.length_k(unit.batch);
  task.head_dim = problem_.head_dim;
  task.dtype = problem_.dtype;
  task.precision = problem_.precision;
  task.k = PackedHeads<const void*>(nullptr, problem_.layout, unit.kv_head_count, problem_.seqlen_k,
                                    problem_.head_dim);
  task.v = task.k;
  const std::int64_t batch = resident_.batch_begin + unit.batch;
  const std::int64_t head = resident_.kv_head_begin + unit.kv_head_begin;
  if (resident_.k) task.k = ToConst(HeadsIn(*resident_.k, batch, head, 0));
  if (resident_.v) task.v = ToConst(HeadsIn(*resident_.v, batch, head, 0));
  return task;
}

std::shared_ptr<KvGroup> UnitTasks::KeptKv(const Unit& unit) const {
  if (resident_.k == nullptr || resident_.v == nullptr) return nullptr;
  return resident_.k->KeptKv(resident_.v, MakeKv(unit), resident_.batch_begin + unit.batch,
                             resident_.kv_head_begin + unit.kv_head_begin);
}

MaskBegin UnitTasks::mask_begin() const {
  // A mask that travels is the part's own.
  if (resident_.mask == nullptr) return {};
  return {.batch = resident_.batch_begin, .head = resident_.q_head_begin};
}

AttendTask UnitTasks::Make(const Unit& unit) const {
  AttendTask task;
  task.kv = MakeKv(unit);
  task.num_heads_q = unit.kv_head_count * problem_.group_size();
  task.q_begin = unit.q_begin;
  task.q_rows = unit.q_count;
  task.length_q = problem_.length_q(unit.batch);
  task.is_causal = problem_.is_causal;
  task.softmax_scale = problem_.scale();
  task.q = PackedHeads<const void*>(nullptr, problem_.layout, task.num_heads_q, unit.q_count,
                                    problem_.head_dim);
  task.out = PackedHeads<void*>(nullptr, problem_.layout, task.num_heads_q, unit.q_count,
                                problem_.head_dim);
  task.output_dtype = problem_.output_dtype;
  const std::int64_t head_q = unit.kv_head_begin * problem_.group_size();
  const std::int64_t batch = resident_.batch_begin + unit.batch;
  const std::int64_t head = resident_.q_head_begin + head_q;
  if (resident_.q) task.q = ToConst(HeadsIn(*resident_.q, batch, head, unit.q_begin));
  if (resident_.output) {
    const auto heads = HeadsIn(*resident_.output, batch, head, unit.q_begin);
    task.out = {heads.data, heads.head_stride, heads.row_stride};
  }
  task.abandoned = &context_->cancelled;
  if (context_->mask != nullptr) {
    const MaskBegin begin = mask_begin();
    task.mask = context_->mask->mask.View(begin.batch + unit.batch, begin.head + head_q);
    if (const std::optional<BlockLists>& lists = context_->mask->lists; lists.has_value()) {
      task.mask.lists =
          lists->View(lists->bytes().data(), begin.batch + unit.batch, begin.head + head_q);
    }
  }
  return task;
}

}  // namespace sage::server
