#include "server/attend_job.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace sage::server {
namespace {

std::uint64_t PieceBytes(const Unit& unit, Piece piece) {
  switch (piece) {
    case Piece::kQ:
      return unit.q_bytes;
    case Piece::kK:
      return unit.k_bytes;
    case Piece::kV:
      return unit.v_bytes;
    case Piece::kOut:
      return unit.out_bytes;
    case Piece::kLse:
      return unit.lse_bytes;
  }
  return 0;
}

// The piece of a unit's payload that comes after `piece`.
std::optional<Piece> After(Piece piece) {
  switch (piece) {
    case Piece::kQ:
      return Piece::kK;
    case Piece::kK:
      return Piece::kV;
    default:
      return std::nullopt;
  }
}

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

// What keeps resident operands in place while units run on them.
struct Borrowed {
  ResidentOperands operands;
  std::optional<ResidentTensor::Access> output;
};

// A queue is estimated, and the request's own payload comes late by as much as others' does:
// without a margin, a server that has too much to do would work on what comes just too late.
constexpr double kQueueMargin = 1.25;

// For messages and retry delays: rounded up.
std::int64_t InMs(double seconds) { return std::llround(std::ceil(seconds * 1e3)); }

// Soon enough to find the other request ended.
constexpr std::chrono::milliseconds kOutputRetryDelay{10};

// Requests of more bytes fit nowhere, and sums of their sizes might not fit 64 bits.
constexpr double kMostBytes = 1e18;

// No less than the bytes of all tensors of a request, scales and lse included.
double BytesBound(const AttentionProblem& problem) {
  return 8 *
         (static_cast<double>(problem.q_elements()) + static_cast<double>(problem.kv_elements()));
}

// Pairs of a query row and a key that exist for one query head of a unit; masks not counted.
double VisiblePairs(const AttentionProblem& problem, const Unit& unit) {
  const std::int64_t length_q = problem.length_q(unit.batch);
  const std::int64_t length_k = problem.length_k(unit.batch);
  const std::int64_t end = std::min(unit.q_begin + unit.q_count, length_q);
  if (!problem.is_causal) {
    return static_cast<double>(std::max<std::int64_t>(0, end - unit.q_begin)) *
           static_cast<double>(length_k);
  }
  // Row r sees r + 1 + shift keys, from the first row that sees any.
  const std::int64_t shift = length_k - length_q;
  const std::int64_t begin = std::max(unit.q_begin, -shift);
  if (begin >= end) return 0;
  return static_cast<double>(end - begin) * static_cast<double>(begin + 1 + end + 2 * shift) / 2;
}

// A unit's piece is a packed tensor of its own in the request's layout.
template <typename Pointer>
StridedHeads<Pointer> PackedHeads(Pointer data, Layout layout, std::int64_t heads,
                                  std::int64_t rows, std::int64_t head_dim) {
  if (layout == Layout::kHnd) return {data, rows * head_dim, head_dim};
  return {data, head_dim, heads * head_dim};
}

}  // namespace

const char* Name(Piece piece) {
  switch (piece) {
    case Piece::kQ:
      return "q";
    case Piece::kK:
      return "k";
    case Piece::kV:
      return "v";
    case Piece::kOut:
      return "output";
    case Piece::kLse:
      return "lse";
  }
  return "?";
}

absl::StatusOr<std::unique_ptr<AttendJob>> AttendJob::Create(JobSpec spec,
                                                             const JobResources& resources,
                                                             Device& device,
                                                             std::uint64_t window_bytes) {
  if (absl::Status supported = device.backend().CheckSupported(spec.problem); !supported.ok()) {
    return supported;
  }
  if (const double bytes = BytesBound(spec.problem); bytes > kMostBytes) {
    return NeverFits("server.host_bytes",
                     absl::StrCat("the request needs about ", bytes, ", the limit is ",
                                  resources.admission.host().limit()));
  }
  const Resident resident = {.q = spec.resident.q != nullptr,
                             .k = spec.resident.k != nullptr,
                             .v = spec.resident.v != nullptr,
                             .out = spec.resident.output != nullptr};
  PlanLimits limits = resources.plan_limits;
  // Prepared keys that are kept go by the cut of their heads.
  const bool keeps_cut = resident.k && resident.v;
  if (spec.whole_entries && !keeps_cut) {
    limits = {.unit_bytes = std::numeric_limits<std::uint64_t>::max(),
              .max_units = limits.max_units};
  }
  absl::StatusOr<std::vector<Unit>> units =
      PlanUnits(spec.problem, limits, resident, spec.quantized.operands());
  if (!units.ok()) return WithFieldPath(units.status(), "header.shape");
  std::unique_ptr<AttendJob> job(new AttendJob(spec, std::move(spec.quantized), resources, device,
                                               *std::move(units), window_bytes));

  const std::uint64_t device_mask = device.backend().info().unified_memory ? 0 : spec.mask_bytes;
  absl::StatusOr<Admission::Ticket> ticket = resources.admission.Admit(
      job->PeakCost(&AttendJob::HostCost) + job->header_bytes_, device.memory(),
      job->PeakCost(&AttendJob::DeviceCost) + SlabPool::RoundUp(device_mask));
  if (!ticket.ok()) return ticket.status();
  job->ticket_ = *std::move(ticket);

  const auto borrowed = std::make_shared<Borrowed>(Borrowed{spec.resident, std::nullopt});
  job->context_->borrowed = borrowed;
  if (spec.resident.output != nullptr) {
    std::optional<ResidentTensor::Access> access =
        ResidentTensor::TryWrite(spec.resident.output, {.batch_begin = spec.resident.batch_begin,
                                                        .batch_count = spec.problem.batch,
                                                        .head_begin = spec.resident.q_head_begin,
                                                        .head_count = spec.problem.num_heads_q});
    if (!access.has_value()) {
      return WithRetryDelay(
          LimitReached("header.output.handle",
                       "another request writes this part of the tensor, or reads it"),
          kOutputRetryDelay);
    }
    borrowed->output.emplace(*std::move(access));
  }
  if (spec.resident.mask != nullptr) {
    job->context_->mask = spec.resident.mask->mask();
  } else if (spec.make_mask) {
    absl::StatusOr<BlockMask> mask = spec.make_mask();
    if (!mask.ok()) return mask.status();
    job->context_->mask = std::make_shared<SharedMask>();
    job->context_->mask->mask = *std::move(mask);
  }
  const std::shared_ptr<SharedMask>& mask = job->context_->mask;
  job->block_density_ =
      MaskDensity(job->problem_, mask == nullptr ? BlockMask() : mask->mask, job->mask_begin());
  if (absl::Status in_time = job->CheckTime(); !in_time.ok()) return in_time;
  if (job->omits_unused_kv_) job->LeaveOutUnused();
  if (const Ingest::Arrival arrival = job->ArrivalSeconds(); arrival.before > 0) {
    // With nothing before it a request is let try: how fast its line is now nobody knows.
    absl::Status in_time = job->CheckArrival(arrival.before, arrival.own);
    if (!in_time.ok()) return in_time;
  }
  job->turn_ = resources.ingest.Join(job->line_, {job->payload_bytes_, job->output_bytes_},
                                     job->context_->priority);
  return job;
}

AttendJob::AttendJob(const JobSpec& spec, QuantizedScales quantized, const JobResources& resources,
                     Device& device, std::vector<Unit> units, std::uint64_t window_bytes)
    : resources_(resources),
      device_(device),
      problem_(spec.problem),
      resident_(spec.resident),
      quantized_(std::move(quantized)),
      omits_unused_kv_(spec.omit_unused_kv),
      header_bytes_(spec.mask_bytes + (omits_unused_kv_ ? UsedBlocks::Bytes(problem_) : 0) +
                    quantized_.bytes()),
      request_id_(spec.request_id),
      units_(std::move(units)),
      context_(std::make_shared<RequestContext>()),
      line_(spec.line),
      group_unsent_(units_.size(), 0) {
  context_->tenant = spec.tenant;
  context_->priority = spec.priority;
  context_->deadline = spec.deadline;
  for (const Unit& unit : units_) {
    payload_bytes_ += unit.payload_bytes();
    output_bytes_ += unit.out_bytes + unit.lse_bytes;
    ++group_unsent_[unit.kv_unit];
  }
  has_payload_ = payload_bytes_ > 0;
  std::uint64_t largest = 0;
  std::uint64_t total = 0;
  for (const Unit& unit : units_) {
    largest = std::max(largest, FlowBytes(unit));
    total += FlowBytes(unit);
  }
  window_bytes_ = std::max(largest, std::min(window_bytes, total));
  SkipResident();
}

std::int64_t AttendJob::ElementBytes(Piece piece) const {
  switch (piece) {
    case Piece::kQ:
      return quantized().q ? 1 : SizeOf(problem_.dtype);
    case Piece::kK:
      return quantized().k ? 1 : SizeOf(problem_.dtype);
    case Piece::kV:
      return SizeOf(problem_.dtype);
    case Piece::kOut:
      return SizeOf(problem_.output_dtype);
    case Piece::kLse:
      return sizeof(float);
  }
  return 0;
}

std::uint64_t AttendJob::FlowBytes(const Unit& unit) const {
  if (has_payload_) return unit.payload_bytes();
  return unit.kv_head_count * problem_.group_size() * unit.q_count * problem_.head_dim *
         SizeOf(problem_.dtype);
}

std::uint64_t AttendJob::QueryBytes(const Unit& unit) const {
  return unit.q_bytes + QueryScaleBytes(quantized_, unit, problem_);
}

std::uint64_t AttendJob::KeyBytes(const Unit& unit) const {
  return unit.k_bytes + KeyScaleBytes(quantized_, unit, problem_);
}

std::uint64_t AttendJob::UsedBytes(const Unit& unit) const {
  if (!omits_unused_kv_ || unit.k_bytes + unit.v_bytes == 0) return 0;
  return CeilDiv(problem_.blocks_k(), 8);
}

std::uint64_t AttendJob::PayloadBytes(std::uint32_t index, Piece piece) const {
  const Unit& unit = units_[index];
  const std::uint64_t bytes = PieceBytes(unit, piece);
  if (!used_.has_value()) return bytes;
  const MayLeaveOut may = UnusedMayBeLeftOut(problem_.precision, quantized().k);
  if ((piece == Piece::kK && may.k) || (piece == Piece::kV && may.v)) {
    return bytes - bytes / problem_.seqlen_k * rows_unused_[index];
  }
  return bytes;
}

void AttendJob::LeaveOutUnused() {
  used_.emplace(problem_, context_->mask == nullptr ? BlockMask() : context_->mask->mask);
  rows_unused_.resize(units_.size(), 0);
  payload_bytes_ = 0;
  for (std::uint32_t i = 0; i < units_.size(); ++i) {
    const Unit& unit = units_[i];
    if (unit.kv_unit == i) {
      rows_unused_[i] = problem_.seqlen_k;
      for (const RowRange& rows :
           used_->RowsOf(unit.batch, unit.kv_head_begin, unit.kv_head_count)) {
        rows_unused_[i] -= rows.count;
      }
    }
    for (const Piece piece : {Piece::kQ, Piece::kK, Piece::kV}) {
      payload_bytes_ += PayloadBytes(i, piece);
    }
  }
  SkipResident();
}

TensorPiece AttendJob::UsedRows(const Unit& unit, Piece piece) const {
  const TensorExtent slab = {.layout = problem_.layout,
                             .heads = unit.kv_head_count,
                             .rows = problem_.seqlen_k,
                             .width_bytes = problem_.head_dim * ElementBytes(piece)};
  return {slab,
          {.batch = 0, .head_begin = 0, .head_count = unit.kv_head_count},
          used_->RowsOf(unit.batch, unit.kv_head_begin, unit.kv_head_count)};
}

AttendJob::Cost AttendJob::HostCost(const Unit& unit) const {
  return {.own = SlabPool::RoundUp(QueryBytes(unit)) +
                 SlabPool::RoundUp(unit.out_bytes + unit.lse_bytes),
          .kv = SlabPool::RoundUp(KeyBytes(unit) + unit.v_bytes + UsedBytes(unit))};
}

AttendJob::Cost AttendJob::DeviceCost(const Unit& unit) const {
  const AttendTask task = MakeTask(unit);
  Cost cost = {.own = SlabPool::RoundUp(device_.backend().AttendWorkspaceBytes({&task, 1})),
               .kv = 0};
  if (unit.q_begin == 0 && KeptKv(unit) == nullptr) {
    cost.kv = SlabPool::RoundUp(device_.backend().PreparedKvBytes(task.kv));
  }
  if (!device_.backend().info().unified_memory) {
    const Cost copies = HostCost(unit);
    cost.own += copies.own;
    cost.kv += copies.kv;
  }
  return cost;
}

DeviceWork AttendJob::WorkOf(const Unit& unit) const {
  DeviceWork work;
  work[DeviceWork::kLaunches] = 1;
  const double pairs = VisiblePairs(problem_, unit) * block_density_;
  const auto heads = static_cast<double>(unit.kv_head_count * problem_.group_size());
  const std::int64_t width = problem_.head_dim > 64 ? 128 : 64;  // of the kernel
  work[DeviceWork::Operations(problem_.precision, problem_.head_dim)] =
      4 * pairs * heads * static_cast<double>(width);
  if (unit.q_begin == 0 && KeptKv(unit) == nullptr) {
    work[DeviceWork::ElementsPrepared(problem_.precision)] =
        static_cast<double>(unit.kv_head_count * problem_.length_k(unit.batch) * problem_.head_dim);
  }
  if (!device_.backend().info().unified_memory) {
    work[DeviceWork::kBytesCopied] = static_cast<double>(
        QueryBytes(unit) + KeyBytes(unit) + unit.v_bytes + unit.out_bytes + unit.lse_bytes);
  }
  return work;
}

double AttendJob::EstimatedSeconds() const {
  DeviceWork work;
  for (const Unit& unit : units_) work += WorkOf(unit);
  return device_.engine().cost_model().Seconds(work);
}

double AttendJob::SecondsLeft() const {
  return std::chrono::duration<double>(context_->deadline - std::chrono::steady_clock::now())
      .count();
}

absl::Status AttendJob::CheckTime() const {
  const double own = EstimatedSeconds();
  const double ahead = device_.engine().SecondsAhead(context_->tenant, context_->priority, own);
  const double limit = std::chrono::duration<double>(resources_.max_queue).count();
  if (ahead > limit) {
    // Until a part of the queue has gone, not just what is beyond the limit.
    return WithRetryDelay(
        LimitReached("server.queue_ms", absl::StrCat("the request would wait for ", InMs(ahead),
                                                     ", the limit is ", InMs(limit))),
        std::chrono::milliseconds(InMs(ahead - limit * 3 / 4)));
  }
  const double left = SecondsLeft();
  if (kQueueMargin * ahead + own <= left) return absl::OkStatus();
  absl::Status status = absl::DeadlineExceededError(absl::StrCat(
      "the deadline cannot be met: about ", InMs(own), " ms of the device are needed, ",
      InMs(ahead), " ms are queued before, ", InMs(left), " ms are left"));
  return own < left ? WithRetryDelay(std::move(status), std::chrono::milliseconds(InMs(ahead)))
                    : status;
}

Ingest::Arrival AttendJob::ArrivalSeconds() const {
  return resources_.ingest.Estimate(line_, {payload_bytes_, output_bytes_}, context_->priority);
}

absl::Status AttendJob::CheckArrival(double before, double own) const {
  const double left = SecondsLeft();
  if (kQueueMargin * (before + own) <= left) return absl::OkStatus();
  absl::Status status = absl::DeadlineExceededError(absl::StrCat(
      "the deadline cannot be met: about ", InMs(own), " ms are needed to send and to answer, ",
      InMs(before), " ms of others come before, ", InMs(left), " ms are left"));
  return before > 0 && own < left
             ? WithRetryDelay(std::move(status), std::chrono::milliseconds(InMs(before)))
             : status;
}

std::uint64_t AttendJob::PeakCost(Cost (AttendJob::*cost)(const Unit&) const) const {
  // Slide over the units: those before `last` are sent whole and unanswered, `last` has begun.
  // Their KV groups are held until the last unit of each group has been answered.
  std::uint64_t peak = 0;
  std::uint64_t held = 0;
  std::uint64_t flow = 0;  // of units first .. last - 1
  std::uint32_t first = 0;
  for (std::uint32_t last = 0; last < units_.size(); ++last) {
    for (; flow >= window_bytes_; ++first) {
      held -= (this->*cost)(units_[first]).own;
      if (LastOfGroup(first)) held -= (this->*cost)(units_[units_[first].kv_unit]).kv;
      flow -= FlowBytes(units_[first]);
    }
    const Cost added = (this->*cost)(units_[last]);
    held += added.own + added.kv;
    peak = std::max(peak, held);
    flow += FlowBytes(units_[last]);
  }
  return peak;
}

bool AttendJob::LastOfGroup(std::uint32_t unit) const {
  return unit + 1 == units_.size() || units_[unit + 1].kv_unit != units_[unit].kv_unit;
}

KvTask AttendJob::MakeKvTask(const Unit& unit) const {
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

std::shared_ptr<KvGroup> AttendJob::KeptKv(const Unit& unit) const {
  if (resident_.k == nullptr || resident_.v == nullptr) return nullptr;
  return resident_.k->KeptKv(resident_.v, MakeKvTask(unit), resident_.batch_begin + unit.batch,
                             resident_.kv_head_begin + unit.kv_head_begin);
}

MaskBegin AttendJob::mask_begin() const {
  // A mask that travels is the part's own.
  if (resident_.mask == nullptr) return {};
  return {.batch = resident_.batch_begin, .head = resident_.q_head_begin};
}

AttendTask AttendJob::MakeTask(const Unit& unit) const {
  AttendTask task;
  task.kv = MakeKvTask(unit);
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

bool AttendJob::HasRoom() const {
  if (slabs_acquired_) return true;
  const Unit& unit = units_[next_unit_];
  if (!has_payload_ && flow_bytes_held_ >= window_bytes_) return false;
  const Cost cost = HostCost(unit);
  return host_bytes_held_ + cost.own + cost.kv + header_bytes_ <= ticket_.host->amount();
}

bool AttendJob::CanReceive() const {
  return payload_complete() || (next_piece_.has_value() && HasRoom());
}

void AttendJob::SkipResident() {
  while (next_piece_.has_value() && PayloadBytes(next_unit_, *next_piece_) == 0) {
    next_piece_ = After(*next_piece_);
  }
}

absl::Status AttendJob::AcquireSlabs() {
  const Unit& unit = units_[next_unit_];
  absl::StatusOr<Slab> q = resources_.host_pool.Acquire(QueryBytes(unit));
  if (!q.ok()) return q.status();
  absl::StatusOr<Slab> out = resources_.host_pool.Acquire(unit.out_bytes + unit.lse_bytes);
  if (!out.ok()) return out.status();
  if (unit.q_begin == 0) {
    absl::StatusOr<Slab> kv =
        resources_.host_pool.Acquire(KeyBytes(unit) + unit.v_bytes + UsedBytes(unit));
    if (!kv.ok()) return kv.status();
    kv_ = KeptKv(unit);
    if (kv_ == nullptr) {
      kv_ = std::make_shared<KvGroup>();
      kv_->task = MakeKvTask(unit);
      kv_->host = *std::move(kv);
      kv_->k_bytes = KeyBytes(unit);
      kv_->v_bytes = unit.v_bytes;
      if (unit.k_bytes > 0) kv_->task.k.data = kv_->host.data();
      if (unit.v_bytes > 0) kv_->task.v.data = kv_->host.data() + kv_->k_bytes;
      if (quantized().k) {
        kv_->task.k_scales =
            PlaceKeyScales(quantized_, unit, problem_, kv_->host.data() + unit.k_bytes);
      }
      kv_->used_bytes = UsedBytes(unit);
      if (kv_->used_bytes > 0) {
        const std::vector<std::uint8_t> used =
            used_->Of(unit.batch, unit.kv_head_begin, unit.kv_head_count);
        std::byte* const to = kv_->host.data() + kv_->k_bytes + kv_->v_bytes;
        std::memcpy(to, used.data(), used.size());
        kv_->task.used_blocks = reinterpret_cast<const std::uint8_t*>(to);
        k_rows_ = UsedRows(unit, Piece::kK);
        v_rows_ = UsedRows(unit, Piece::kV);
      }
    }
  }
  q_ = *std::move(q);
  out_ = *std::move(out);
  const Cost cost = HostCost(unit);
  host_bytes_held_ += cost.own + cost.kv;
  flow_bytes_held_ += FlowBytes(unit);
  slabs_acquired_ = true;
  return absl::OkStatus();
}

absl::StatusOr<AttendJob::Places> AttendJob::Receive(Piece piece, std::uint32_t unit,
                                                     std::uint64_t offset, std::uint64_t size) {
  if (payload_complete()) {
    return InvalidField("chunk", absl::StrCat("got ", size, " bytes of ", Name(piece), " of unit ",
                                              unit, " after the whole payload"));
  }
  if (unit != next_unit_ || piece != next_piece_ || offset != next_offset_) {
    const char* const next = next_piece_.has_value() ? Name(*next_piece_) : "nothing";
    return InvalidField("chunk", absl::StrCat("got ", Name(piece), " of unit ", unit, " at offset ",
                                              offset, "; next is ", next, " of unit ", next_unit_,
                                              " at offset ", next_offset_));
  }
  const std::uint64_t piece_bytes = PayloadBytes(unit, piece);
  if (size > piece_bytes - offset) {
    return InvalidField(
        "data", absl::StrCat("got ", size, " bytes of ", Name(piece), " of unit ", unit,
                             " at offset ", offset, ", allowed at most ", piece_bytes - offset));
  }
  if (!slabs_acquired_) {
    if (absl::Status status = AcquireSlabs(); !status.ok()) return status;
  }
  std::byte* base = nullptr;
  const TensorPiece* rows = nullptr;  // those that travel, where some do not
  switch (piece) {
    case Piece::kQ:
      base = q_.data();
      break;
    case Piece::kK:
      base = kv_->host.data();
      rows = &k_rows_;
      break;
    case Piece::kV:
      base = kv_->host.data() + kv_->k_bytes;
      rows = &v_rows_;
      break;
    case Piece::kOut:
    case Piece::kLse:
      return absl::InternalError("output is never received");
  }
  Places places;
  if (piece_bytes == PieceBytes(units_[unit], piece)) {
    places.emplace_back(base + offset, size);
  } else {
    rows->ForEachRun(static_cast<std::int64_t>(offset), static_cast<std::int64_t>(size),
                     [&](std::int64_t at, std::int64_t /*done*/, std::int64_t bytes) {
                       places.emplace_back(base + at, bytes);
                     });
  }

  // Step to what comes next: the rest of this piece, or the next piece.
  received_bytes_ += size;
  next_offset_ += size;
  if (next_offset_ == piece_bytes) {
    next_offset_ = 0;
    next_piece_ = After(piece);
    SkipResident();
  }
  turn_.Received(size, WindowOpen());
  return places;
}

bool AttendJob::WindowOpen() const {
  std::uint64_t flow_bytes = flow_bytes_held_;
  if (!next_piece_.has_value() && next_unit_ + 1 < units_.size()) {
    flow_bytes += FlowBytes(units_[next_unit_ + 1]);
  }
  return flow_bytes <= window_bytes_;
}

absl::StatusOr<std::optional<UnitWork>> AttendJob::TakeReadyUnit() {
  if (next_unit_ == units_.size() || next_piece_.has_value() || !HasRoom()) return std::nullopt;
  if (!slabs_acquired_) {
    if (absl::Status status = AcquireSlabs(); !status.ok()) return status;
  }
  const Unit& unit = units_[next_unit_];
  UnitWork work;
  work.unit = next_unit_;
  work.task = MakeTask(unit);
  if (resident_.q == nullptr) work.task.q.data = q_.data();
  if (quantized().q) {
    work.task.q_scales = PlaceQueryScales(quantized_, unit, problem_, q_.data() + unit.q_bytes);
  }
  if (resident_.output == nullptr) work.task.out.data = out_.data();
  if (unit.lse_bytes > 0) {
    work.task.lse = reinterpret_cast<float*>(out_.data() + unit.out_bytes);
  }
  work.q = std::move(q_);
  work.out = std::move(out_);
  work.q_bytes = QueryBytes(unit);
  work.out_bytes = unit.out_bytes + unit.lse_bytes;
  work.out_is_resident = resident_.output != nullptr;
  work.device_work = WorkOf(unit);
  work.seconds = device_.engine().cost_model().Seconds(work.device_work);
  work.kv = kv_;
  work.request = context_;
  if (LastOfGroup(next_unit_)) kv_.reset();
  slabs_acquired_ = false;
  if (++next_unit_ < units_.size()) {
    next_piece_ = Piece::kQ;
    SkipResident();
  }
  return work;
}

void AttendJob::OutputSent(std::uint32_t unit) {
  const Unit& sent = units_[unit];
  host_bytes_held_ -= HostCost(sent).own;
  flow_bytes_held_ -= FlowBytes(sent);
  if (--group_unsent_[sent.kv_unit] == 0) host_bytes_held_ -= HostCost(units_[sent.kv_unit]).kv;
  ++units_sent_;
}

void AttendJob::ReleaseInputs() {
  std::uint64_t outputs = 0;
  for (const Unit& unit : units_) outputs += SlabPool::RoundUp(unit.out_bytes + unit.lse_bytes);
  ticket_.host->ShrinkTo(std::min(outputs, ticket_.host->amount()));
}

}  // namespace sage::server
