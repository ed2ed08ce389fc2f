#include "server/attend_job.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/in_time.h"

namespace sage::server {
namespace {

// What keeps resident operands in place while units run on them.
struct Borrowed {
  ResidentOperands operands;
  std::optional<ResidentTensor::Access> output;
};

// Soon enough to find the other request ended.
constexpr std::chrono::milliseconds kOutputRetryDelay{10};

// Requests of more bytes fit nowhere, and sums of their sizes might not fit 64 bits.
constexpr double kMostBytes = 1e18;

// No less than the bytes of all tensors of a request, scales and lse included.
double BytesBound(const AttentionProblem& problem) {
  return 8 *
         (static_cast<double>(problem.q_elements()) + static_cast<double>(problem.kv_elements()));
}

}  // namespace

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
      job->costs_.Peak(&UnitCosts::HostMemory, job->window_bytes_) + job->header_bytes_,
      device.memory(),
      job->costs_.Peak(&UnitCosts::DeviceMemory, job->window_bytes_) +
          SlabPool::RoundUp(device_mask));
  if (!ticket.ok()) return ticket.status();
  job->ticket_ = *std::move(ticket);

  const auto borrowed = std::make_shared<Borrowed>(Borrowed{spec.resident, std::nullopt});
  RequestContext& context = *job->context();
  context.borrowed = borrowed;
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
    context.mask = spec.resident.mask->mask();
  } else if (spec.make_mask) {
    absl::StatusOr<BlockMask> mask = spec.make_mask();
    if (!mask.ok()) return mask.status();
    context.mask = std::make_shared<SharedMask>();
    context.mask->mask = *std::move(mask);
  }
  const BlockMask none;
  const BlockMask& mask = context.mask == nullptr ? none : context.mask->mask;
  job->block_density_ = MaskDensity(job->problem_, mask, job->tasks_.mask_begin());
  if (absl::Status in_time = job->CheckDevice(); !in_time.ok()) return in_time;
  if (spec.omit_unused_kv) {
    job->payload_.LeaveOutUnused(mask);
    job->SkipResident();
  }
  const Ingest::Arrival arrival = job->EstimatedArrival();
  if (arrival.before > 0) {
    // With nothing before it a request is let try: how fast its line is now nobody knows.
    absl::Status in_time = CheckArrival(arrival, job->SecondsLeft());
    if (!in_time.ok()) return in_time;
  }
  job->turn_ = resources.ingest.Join(
      job->line_, {job->payload_.bytes(), job->payload_.output_bytes()}, context.priority);
  return job;
}

AttendJob::AttendJob(const JobSpec& spec, QuantizedScales quantized, const JobResources& resources,
                     Device& device, std::vector<Unit> units, std::uint64_t window_bytes)
    : resources_(resources),
      device_(device),
      problem_(spec.problem),
      payload_(problem_, std::move(units), std::move(quantized), spec.omit_unused_kv),
      tasks_(problem_, spec.resident, std::make_shared<RequestContext>()),
      costs_(payload_, tasks_, device_),
      header_bytes_(spec.mask_bytes + payload_.header_bytes()),
      request_id_(spec.request_id),
      line_(spec.line),
      group_unsent_(payload_.units().size(), 0) {
  context()->tenant = spec.tenant;
  context()->priority = spec.priority;
  context()->deadline = spec.deadline;
  std::uint64_t largest = 0;
  std::uint64_t total = 0;
  for (const Unit& unit : payload_.units()) {
    ++group_unsent_[unit.kv_unit];
    largest = std::max(largest, payload_.FlowBytes(unit));
    total += payload_.FlowBytes(unit);
  }
  window_bytes_ = std::max(largest, std::min(window_bytes, total));
  SkipResident();
}

double AttendJob::SecondsLeft() const {
  return std::chrono::duration<double>(context()->deadline - std::chrono::steady_clock::now())
      .count();
}

absl::Status AttendJob::CheckDevice() const {
  const double own = costs_.EstimatedSeconds(block_density_);
  return CheckQueue(own, device_.engine().SecondsAhead(context()->tenant, context()->priority, own),
                    SecondsLeft(), resources_.max_queue);
}

Ingest::Arrival AttendJob::EstimatedArrival() const {
  return resources_.ingest.Estimate(line_, {payload_.bytes(), payload_.output_bytes()},
                                    context()->priority);
}

absl::Status AttendJob::CheckTurn() const {
  return CheckArrival({.before = 0, .own = EstimatedArrival().own}, SecondsLeft());
}

bool AttendJob::HasRoom() const {
  if (slabs_acquired_) return true;
  const Unit& unit = units()[next_unit_];
  if (!payload_.any() && flow_bytes_held_ >= window_bytes_) return false;
  const MemoryCost cost = costs_.HostMemory(unit);
  return host_bytes_held_ + cost.own + cost.kv + header_bytes_ <= ticket_.host->amount();
}

bool AttendJob::CanReceive() const {
  return payload_complete() || (next_piece_.has_value() && HasRoom());
}

void AttendJob::SkipResident() {
  while (next_piece_.has_value() && payload_.Bytes(next_unit_, *next_piece_) == 0) {
    next_piece_ = After(*next_piece_);
  }
}

absl::Status AttendJob::AcquireSlabs() {
  const Unit& unit = units()[next_unit_];
  absl::StatusOr<Slab> q = resources_.host_pool.Acquire(payload_.QueryBytes(unit));
  if (!q.ok()) return q.status();
  absl::StatusOr<Slab> out = resources_.host_pool.Acquire(unit.out_bytes + unit.lse_bytes);
  if (!out.ok()) return out.status();
  if (unit.q_begin == 0) {
    absl::StatusOr<Slab> kv = resources_.host_pool.Acquire(payload_.KeyBytes(unit) + unit.v_bytes +
                                                           payload_.UsedBytes(unit));
    if (!kv.ok()) return kv.status();
    kv_ = tasks_.KeptKv(unit);
    if (kv_ == nullptr) {
      kv_ = std::make_shared<KvGroup>();
      kv_->task = tasks_.MakeKv(unit);
      kv_->host = *std::move(kv);
      kv_->k_bytes = payload_.KeyBytes(unit);
      kv_->v_bytes = unit.v_bytes;
      if (unit.k_bytes > 0) kv_->task.k.data = kv_->host.data();
      if (unit.v_bytes > 0) kv_->task.v.data = kv_->host.data() + kv_->k_bytes;
      if (quantized().k) {
        kv_->task.k_scales =
            PlaceKeyScales(payload_.scales(), unit, problem_, kv_->host.data() + unit.k_bytes);
      }
      kv_->used_bytes = payload_.UsedBytes(unit);
      if (kv_->used_bytes > 0) {
        const std::vector<std::uint8_t> used = payload_.UsedList(unit);
        std::byte* const to = kv_->host.data() + kv_->k_bytes + kv_->v_bytes;
        std::memcpy(to, used.data(), used.size());
        kv_->task.used_blocks = reinterpret_cast<const std::uint8_t*>(to);
        k_rows_ = payload_.UsedRows(unit, Piece::kK);
        v_rows_ = payload_.UsedRows(unit, Piece::kV);
      }
    }
  }
  q_ = *std::move(q);
  out_ = *std::move(out);
  const MemoryCost cost = costs_.HostMemory(unit);
  host_bytes_held_ += cost.own + cost.kv;
  flow_bytes_held_ += payload_.FlowBytes(unit);
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
  const std::uint64_t piece_bytes = payload_.Bytes(unit, piece);
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
  if (piece_bytes == PlannedBytes(units()[unit], piece)) {
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
  if (!next_piece_.has_value() && next_unit_ + 1 < units().size()) {
    flow_bytes += payload_.FlowBytes(units()[next_unit_ + 1]);
  }
  return flow_bytes <= window_bytes_;
}

absl::StatusOr<std::optional<UnitWork>> AttendJob::TakeReadyUnit() {
  if (next_unit_ == units().size() || next_piece_.has_value() || !HasRoom()) return std::nullopt;
  if (!slabs_acquired_) {
    if (absl::Status status = AcquireSlabs(); !status.ok()) return status;
  }
  const Unit& unit = units()[next_unit_];
  UnitWork work;
  work.unit = next_unit_;
  work.task = tasks_.Make(unit);
  if (resident().q == nullptr) work.task.q.data = q_.data();
  if (quantized().q) {
    work.task.q_scales =
        PlaceQueryScales(payload_.scales(), unit, problem_, q_.data() + unit.q_bytes);
  }
  if (resident().output == nullptr) work.task.out.data = out_.data();
  if (unit.lse_bytes > 0) {
    work.task.lse = reinterpret_cast<float*>(out_.data() + unit.out_bytes);
  }
  work.q = std::move(q_);
  work.out = std::move(out_);
  work.q_bytes = payload_.QueryBytes(unit);
  work.out_bytes = unit.out_bytes + unit.lse_bytes;
  work.out_is_resident = resident().output != nullptr;
  work.device_work = costs_.Work(unit, block_density_);
  work.seconds = device_.engine().cost_model().Seconds(work.device_work);
  work.kv = kv_;
  work.request = context();
  if (payload_.IsLastOfGroup(next_unit_)) kv_.reset();
  slabs_acquired_ = false;
  if (++next_unit_ < units().size()) {
    next_piece_ = Piece::kQ;
    SkipResident();
  }
  return work;
}

void AttendJob::OutputSent(std::uint32_t unit) {
  const Unit& sent = units()[unit];
  host_bytes_held_ -= costs_.HostMemory(sent).own;
  flow_bytes_held_ -= payload_.FlowBytes(sent);
  if (--group_unsent_[sent.kv_unit] == 0) {
    host_bytes_held_ -= costs_.HostMemory(units()[sent.kv_unit]).kv;
  }
  ++units_sent_;
}

void AttendJob::ReleaseInputs() {
  std::uint64_t outputs = 0;
  for (const Unit& unit : units()) outputs += SlabPool::RoundUp(unit.out_bytes + unit.lse_bytes);
  ticket_.host->ShrinkTo(std::min(outputs, ticket_.host->amount()));
}

}  // namespace sage::server
