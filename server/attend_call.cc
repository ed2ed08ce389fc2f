#include "server/attend_call.h"

#include <array>
#include <chrono>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/tensor_piece.h"
#include "proto/wire/frame.h"
#include "server/call_record.h"
#include "server/errors.h"
#include "server/grpc_status.h"
#include "server/output_slice.h"

namespace sage::server {
namespace {

using Clock = std::chrono::steady_clock;

// Where a unit's piece lies in its whole tensor.
PieceRuns RunsOf(const AttendJob& job, const Unit& unit, Piece piece) {
  const AttentionProblem& problem = job.problem();
  const bool kv = piece == Piece::kK || piece == Piece::kV;
  const std::int64_t group = kv ? 1 : problem.group_size();
  TensorExtent whole{.layout = problem.layout,
                     .heads = kv ? problem.num_heads_kv : problem.num_heads_q,
                     .rows = kv ? problem.seqlen_k : problem.seqlen_q,
                     .width_bytes = problem.head_dim * job.ElementBytes(piece)};
  if (piece == Piece::kLse) {
    whole.layout = Layout::kHnd;
    whole.width_bytes = sizeof(float);
  }
  return RunsOf(whole, {.batch = unit.batch,
                        .head_begin = unit.kv_head_begin * group,
                        .head_count = unit.kv_head_count * group,
                        .row_begin = kv ? 0 : unit.q_begin,
                        .row_count = kv ? problem.seqlen_k : unit.q_count});
}

class AttendCall final : public grpc::ServerUnaryReactor, public Stallable {
 public:
  AttendCall(AttentionCore& core, Caller caller, grpc::CallbackServerContext& context,
             const grpc::ByteBuffer& request, grpc::ByteBuffer& response)
      : core_(core),
        caller_(std::move(caller)),
        context_(context),
        response_(response),
        record_("Attend", context) {
    core_.stalls.Add(this);
    const absl::Status status = Begin(request);
    bool finish = false;
    {
      const std::lock_guard lock(mutex_);
      begun_ = true;
      status_.Update(status);
      finish = units_running_ == 0;
    }
    if (finish) End();
  }

  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    status_.Update(record_.ClientLeft());
    if (job_ != nullptr) job_->engine().Cancel(*job_->context());
  }

  void OnDone() override {
    core_.stalls.Remove(this);
    // The last step was taken under the lock, on another thread.
    { const std::lock_guard lock(mutex_); }
    delete this;
  }

  void CheckStall(Clock::time_point now) override {
    const std::lock_guard lock(mutex_);
    // The answer holds what the request reserved until the client has read it.
    if (ended_.has_value() && now - *ended_ > core_.stall_timeout) context_.TryCancel();
  }

 private:
  // Checks, gathers and submits everything; what was submitted runs on even after an error.
  absl::Status Begin(const grpc::ByteBuffer& message) {
    if (message.Length() > core_.max_unary_bytes) {
      return LimitReached("server.max_unary_message_bytes",
                          absl::StrCat("got ", message.Length(), " bytes, the limit is ",
                                       core_.max_unary_bytes, "; use AttendStream"));
    }
    v1::AttendRequest request;
    std::array<FrameData, 3> tensors = {{{.field = v1::AttendRequest::kQFieldNumber},
                                         {.field = v1::AttendRequest::kKFieldNumber},
                                         {.field = v1::AttendRequest::kVFieldNumber}}};
    if (absl::Status status = ParseFrame(message, &request, tensors); !status.ok()) return status;
    if (request.header().omit_unused_kv()) {
      return InvalidField("header.omit_unused_kv", "allowed with AttendStream only");
    }
    // Everything is here already: the window is the whole request.
    absl::StatusOr<std::unique_ptr<AttendJob>> job = core_.StartJob(
        caller_.tenant.name(), request.header(), context_,
        {.window_bytes = std::numeric_limits<std::uint64_t>::max(), .whole_entries = true});
    if (!job.ok()) return job.status();
    const AttentionProblem& problem = (*job)->problem();
    const ResidentOperands& resident = (*job)->resident();
    const auto travelling = [&](const auto& held, Piece piece, std::int64_t elements) {
      return static_cast<std::uint64_t>(held != nullptr ? 0
                                                        : elements * (*job)->ElementBytes(piece));
    };
    const std::array<std::uint64_t, 3> allowed = {
        travelling(resident.q, Piece::kQ, problem.q_elements()),
        travelling(resident.k, Piece::kK, problem.kv_elements()),
        travelling(resident.v, Piece::kV, problem.kv_elements())};
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].size != allowed[i]) {
        return InvalidField(Name(kPieces[i]),
                            absl::StrCat("got ", tensors[i].size, " bytes, allowed ", allowed[i],
                                         " for this shape"));
      }
    }
    if (resident.q != nullptr && (*job)->output_bytes() > core_.max_unary_bytes) {
      return LimitReached(
          "server.max_unary_message_bytes",
          absl::StrCat("the answer has ", (*job)->output_bytes(), " bytes, the limit is ",
                       core_.max_unary_bytes, "; use AttendStream"));
    }
    std::array<FrameReader, 3> readers = {FrameReader(message, tensors[0]),
                                          FrameReader(message, tensors[1]),
                                          FrameReader(message, tensors[2])};
    const std::lock_guard lock(mutex_);
    job_ = *std::move(job);
    outputs_.resize(job_->units().size());
    for (std::uint32_t unit = 0; unit < job_->units().size(); ++unit) {
      if (absl::Status status = Gather(readers, unit); !status.ok()) return status;
      if (absl::Status status = SubmitReady(); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Takes in what travelled of a unit. With mutex_ held.
  absl::Status Gather(std::array<FrameReader, 3>& readers, std::uint32_t index) {
    const Unit& unit = job_->units()[index];
    const std::array<std::uint64_t, 3> bytes = {unit.q_bytes, unit.k_bytes, unit.v_bytes};
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (bytes[i] == 0) continue;
      absl::StatusOr<AttendJob::Places> places = job_->Receive(kPieces[i], index, 0, bytes[i]);
      if (!places.ok()) return places.status();
      const std::span<std::byte> destination = places->front();  // nothing is left out
      const PieceRuns runs = RunsOf(*job_, unit, kPieces[i]);
      for (std::int64_t run = 0; run < runs.count; ++run) {
        readers[i].Seek(runs.offset + run * runs.stride_bytes);
        readers[i].CopyTo(destination.subspan(run * runs.run_bytes, runs.run_bytes));
      }
      record_.PayloadReceived(bytes[i]);
      record_.PayloadCopied(bytes[i]);
    }
    return absl::OkStatus();
  }

  // Submits the units that can run. With mutex_ held.
  absl::Status SubmitReady() {
    while (true) {
      absl::StatusOr<std::optional<UnitWork>> work = job_->TakeReadyUnit();
      if (!work.ok()) return work.status();
      if (!work->has_value()) return absl::OkStatus();
      ++units_running_;
      (*work)->done = [this](UnitResult result) { UnitDone(std::move(result)); };
      job_->engine().Submit(**std::move(work));
    }
  }

  void UnitDone(UnitResult result) {
    bool finish = false;
    {
      const std::lock_guard lock(mutex_);
      status_.Update(result.status);
      if (result.status.ok()) {
        outputs_[result.unit] =
            std::make_shared<Output>(Output{job_->host_reservation(), std::move(result.out)});
        record_.UnitDone(result.timings);
      }
      finish = --units_running_ == 0 && begun_;
    }
    if (finish) End();
  }

  // The answer: output and lse, as the units' slabs hold them.
  grpc::ByteBuffer Answer() {
    const std::array<FramePart, 2> parts = {
        FramePart{v1::AttendResponse::kLseFieldNumber, Collect(Piece::kLse)},
        FramePart{v1::AttendResponse::kOutFieldNumber, Collect(Piece::kOut)}};
    record_.OutputSent(job_->output_bytes());
    v1::AttendResponse response;
    *response.mutable_trailer() = record_.Trailer(*job_);
    return MakeFrame(response, parts);
  }

  // A whole tensor, from the units that hold it: in place, or gathered where it would be many small
  // slices, whose bookkeeping could take more memory than what they hold.
  std::vector<grpc::Slice> Collect(Piece piece) {
    std::uint64_t bytes = 0;
    bool scattered = false;
    for (const Unit& unit : job_->units()) {
      bytes += piece == Piece::kLse ? unit.lse_bytes : unit.out_bytes;
      const PieceRuns runs = RunsOf(*job_, unit, piece);
      scattered |= runs.count > 1 && runs.run_bytes < kWorthASlice;
    }
    if (bytes == 0) return {};
    if (scattered) return {Gathered(piece, bytes)};
    std::map<std::int64_t, grpc::Slice> by_place;
    for (std::uint32_t index = 0; index < outputs_.size(); ++index) {
      const Unit& unit = job_->units()[index];
      const PieceRuns runs = RunsOf(*job_, unit, piece);
      for (std::int64_t run = 0; run < runs.count; ++run) {
        by_place[runs.offset + run * runs.stride_bytes] =
            SliceOf(outputs_[index], BeginOf(unit, piece) + run * runs.run_bytes, runs.run_bytes);
      }
    }
    std::vector<grpc::Slice> slices;
    slices.reserve(by_place.size());
    for (auto& [place, slice] : by_place) slices.push_back(std::move(slice));
    return slices;
  }

  // A whole tensor of `bytes` bytes, no more than an answer has, copied together. It takes the
  // place of the units' slabs in what the request reserved.
  grpc::Slice Gathered(Piece piece, std::uint64_t bytes) {
    struct Whole {
      std::shared_ptr<const Account::Reservation> reservation;
      std::vector<std::byte> data;
    };
    auto whole =
        std::make_unique<Whole>(Whole{job_->host_reservation(), std::vector<std::byte>(bytes)});
    for (std::uint32_t index = 0; index < outputs_.size(); ++index) {
      const Unit& unit = job_->units()[index];
      const PieceRuns runs = RunsOf(*job_, unit, piece);
      ScatterPiece(runs, outputs_[index]->slab.data() + BeginOf(unit, piece), 0, runs.bytes(),
                   whole->data.data());
    }
    record_.PayloadCopied(bytes);
    std::byte* const data = whole->data.data();
    return {data, bytes, [](void* owner) { delete static_cast<Whole*>(owner); }, whole.release()};
  }

  // Where a piece begins in a unit's output.
  static std::uint64_t BeginOf(const Unit& unit, Piece piece) {
    return piece == Piece::kLse ? unit.out_bytes : 0;
  }

  // Nothing runs any more. Finish() may free this object.
  void End() {
    absl::Status status;
    {
      const std::lock_guard lock(mutex_);
      status = status_;
      if (status.ok()) {
        response_ = Answer();
        job_->ReleaseInputs();
      }
      outputs_.clear();
      record_.Close(status, job_.get(), core_.metrics);
      job_.reset();
      caller_.stream.Release();
      ended_ = Clock::now();
    }
    Finish(ToGrpcStatus(status));
  }

  // In bytes; a slice costs some 200 of bookkeeping here and in gRPC.
  static constexpr std::int64_t kWorthASlice = 16 << 10;
  static constexpr std::array<Piece, 3> kPieces = {Piece::kQ, Piece::kK, Piece::kV};

  AttentionCore& core_;
  Caller caller_;
  grpc::CallbackServerContext& context_;
  grpc::ByteBuffer& response_;  // gRPC's, until Finish()

  std::mutex mutex_;
  // Guarded by mutex_.
  std::unique_ptr<AttendJob> job_;
  CallRecord record_;
  absl::Status status_;
  std::vector<std::shared_ptr<Output>> outputs_;  // by unit
  std::size_t units_running_ = 0;
  bool begun_ = false;
  std::optional<Clock::time_point> ended_;
};

}  // namespace

grpc::ServerUnaryReactor* StartAttendCall(AttentionCore& core, Caller caller,
                                          grpc::CallbackServerContext& context,
                                          const grpc::ByteBuffer& request,
                                          grpc::ByteBuffer& response) {
  return new AttendCall(core, std::move(caller), context, request,
                        response);  // deletes itself in OnDone()
}

}  // namespace sage::server
