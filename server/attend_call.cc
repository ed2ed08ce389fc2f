#include "server/attend_call.h"

#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/tensor_piece.h"
#include "server/call_record.h"
#include "server/errors.h"
#include "server/grpc_status.h"

namespace sage::server {
namespace {

// Where a unit's piece lies in its whole tensor.
PieceRuns RunsOf(const AttentionProblem& problem, const Unit& unit, Piece piece) {
  const bool kv = piece == Piece::kK || piece == Piece::kV;
  const std::int64_t group = kv ? 1 : problem.group_size();
  const DType dtype = piece == Piece::kOut ? problem.output_dtype : problem.dtype;
  TensorExtent whole{.layout = problem.layout,
                     .heads = kv ? problem.num_heads_kv : problem.num_heads_q,
                     .rows = kv ? problem.seqlen_k : problem.seqlen_q,
                     .width_bytes = problem.head_dim * static_cast<std::int64_t>(SizeOf(dtype))};
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

class AttendCall final : public grpc::ServerUnaryReactor {
 public:
  AttendCall(AttentionCore& core, grpc::CallbackServerContext& context,
             const grpc::ByteBuffer& request, grpc::ByteBuffer& response)
      : core_(core), response_buffer_(response), record_("Attend", context.peer()) {
    const absl::Status status = Begin(context, request);
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
    status_.Update(absl::CancelledError("the client ended the request"));
    if (job_ != nullptr) job_->engine().Cancel(*job_->context());
  }

  void OnDone() override {
    // The last step was taken under the lock, on another thread.
    { const std::lock_guard lock(mutex_); }
    delete this;
  }

 private:
  // Checks, gathers and submits everything; what was submitted runs on even after an error.
  absl::Status Begin(const grpc::CallbackServerContext& context, const grpc::ByteBuffer& message) {
    if (message.Length() > core_.max_unary_bytes) {
      return LimitReached("server.max_unary_message_bytes",
                          absl::StrCat("got ", message.Length(), " bytes, the limit is ",
                                       core_.max_unary_bytes, "; use AttendStream"));
    }
    v1::AttendRequest request;
    grpc::ByteBuffer view(message);  // shares the slices; a parser wants a mutable buffer
    if (!grpc::SerializationTraits<v1::AttendRequest>::Deserialize(&view, &request).ok()) {
      return absl::InvalidArgumentError("message: not a protobuf message of the expected type");
    }
    // Everything is here already: the window is the whole payload.
    absl::StatusOr<std::unique_ptr<AttendJob>> job =
        core_.StartJob(request.header(), context, core_.max_unary_bytes);
    if (!job.ok()) return job.status();
    const AttentionProblem& problem = (*job)->problem();
    const ResidentOperands& resident = (*job)->resident();
    const auto travelling = [&problem](const auto& held, std::int64_t elements) {
      return held != nullptr ? 0 : elements * SizeOf(problem.dtype);
    };
    for (const auto& [field, tensor, allowed] :
         {std::tuple("q", &request.q(), travelling(resident.q, problem.q_elements())),
          std::tuple("k", &request.k(), travelling(resident.k, problem.kv_elements())),
          std::tuple("v", &request.v(), travelling(resident.v, problem.kv_elements()))}) {
      if (tensor->size() != allowed) {
        return InvalidField(field, absl::StrCat("got ", tensor->size(), " bytes, allowed ", allowed,
                                                " for this shape"));
      }
    }
    if (resident.q != nullptr && (*job)->output_bytes() > core_.max_unary_bytes) {
      return LimitReached(
          "server.max_unary_message_bytes",
          absl::StrCat("the answer has ", (*job)->output_bytes(), " bytes, the limit is ",
                       core_.max_unary_bytes, "; use AttendStream"));
    }
    if (resident.output == nullptr) {
      response_.mutable_out()->resize(problem.q_elements() * SizeOf(problem.output_dtype));
    }
    if (problem.return_lse) response_.mutable_lse()->resize(problem.lse_elements() * sizeof(float));
    const std::lock_guard lock(mutex_);
    job_ = *std::move(job);
    for (std::uint32_t unit = 0; unit < job_->units().size(); ++unit) {
      if (absl::Status status = Gather(request, unit); !status.ok()) return status;
      if (absl::Status status = SubmitReady(); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

  // Takes in what travelled of a unit. With mutex_ held.
  absl::Status Gather(const v1::AttendRequest& request, std::uint32_t index) {
    const Unit& unit = job_->units()[index];
    for (const auto& [piece, tensor, bytes] : {std::tuple(Piece::kQ, &request.q(), unit.q_bytes),
                                               std::tuple(Piece::kK, &request.k(), unit.k_bytes),
                                               std::tuple(Piece::kV, &request.v(), unit.v_bytes)}) {
      if (bytes == 0) continue;
      absl::StatusOr<std::span<std::byte>> destination = job_->Receive(piece, index, 0, bytes);
      if (!destination.ok()) return destination.status();
      GatherPiece(RunsOf(job_->problem(), unit, piece),
                  reinterpret_cast<const std::byte*>(tensor->data()), 0,
                  static_cast<std::int64_t>(bytes), destination->data());
      record_.PayloadReceived(bytes);
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
        const Unit& unit = job_->units()[result.unit];
        if (unit.out_bytes > 0) {
          ScatterPiece(RunsOf(job_->problem(), unit, Piece::kOut), result.out.data(), 0,
                       static_cast<std::int64_t>(unit.out_bytes),
                       reinterpret_cast<std::byte*>(response_.mutable_out()->data()));
        }
        if (unit.lse_bytes > 0) {
          ScatterPiece(RunsOf(job_->problem(), unit, Piece::kLse),
                       result.out.data() + unit.out_bytes, 0,
                       static_cast<std::int64_t>(unit.lse_bytes),
                       reinterpret_cast<std::byte*>(response_.mutable_lse()->data()));
        }
        record_.UnitDone(result.timings);
      }
      result.out.Reset();
      job_->OutputSent(result.unit);
      if (begun_ && status_.ok()) status_.Update(SubmitReady());
      finish = --units_running_ == 0 && begun_;
    }
    if (finish) End();
  }

  // Nothing runs any more. Finish() may free this object.
  void End() {
    absl::Status status;
    {
      const std::lock_guard lock(mutex_);
      status = status_;
      if (status.ok()) {
        record_.OutputSent(job_->output_bytes());
        *response_.mutable_trailer() = record_.Trailer(*job_);
        bool own_buffer = false;
        grpc::SerializationTraits<v1::AttendResponse>::Serialize(response_, &response_buffer_,
                                                                 &own_buffer);
      }
      record_.Close(status, job_.get(), core_.metrics);
      job_.reset();
    }
    Finish(ToGrpcStatus(status));
  }

  AttentionCore& core_;
  grpc::ByteBuffer& response_buffer_;  // what travels, made of response_ at the end

  std::mutex mutex_;
  // Guarded by mutex_.
  v1::AttendResponse response_;
  std::unique_ptr<AttendJob> job_;
  CallRecord record_;
  absl::Status status_;
  std::size_t units_running_ = 0;
  bool begun_ = false;
};

}  // namespace

grpc::ServerUnaryReactor* StartAttendCall(AttentionCore& core, grpc::CallbackServerContext& context,
                                          const grpc::ByteBuffer& request,
                                          grpc::ByteBuffer& response) {
  return new AttendCall(core, context, request, response);  // deletes itself in OnDone()
}

}  // namespace sage::server
