// Reading, computing and writing go on side by side, each at most one step ahead:
//
//   OnReadDone -> header: admit, answer with the plan      -> read on while the job has memory for
//                 once it is the request's turn to send       more
//              -> chunk: copy into its slab, submit a whole unit
//   engine     -> unit computed: queue its output          -> write on while there is output
//   OnWriteDone-> last chunk of a unit: its memory is back -> read on
//
// At its end the call waits for its units to leave the engine and for a write in flight.
#include "server/attend_stream_call.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/wire/crc32c.h"
#include "proto/wire/frame.h"
#include "server/codec.h"
#include "server/errors.h"
#include "server/output_slice.h"
#include "server/streaming_call.h"

namespace sage::server {
namespace {

// One sends while the next is told to and begins: with one at a time, its way to the client and
// back would be lost.
constexpr std::size_t kSendersOfConnection = 2;
// Over Unix sockets, which cannot be told apart: as many connections as clients open by default.
constexpr std::size_t kConnectionsOfUnixLine = 4;

// What a tenant sends over a connection.
Ingest::LineId LineOf(const std::string& tenant, const grpc::CallbackServerContext& context) {
  const std::string peer = context.peer();
  const std::size_t connections = absl::StartsWith(peer, "unix:") ? kConnectionsOfUnixLine : 1;
  return {.name = absl::StrCat(peer, " ", tenant), .width = connections * kSendersOfConnection};
}

class AttendStreamCall final
    : public StreamingCall<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  AttendStreamCall(AttentionCore& core, Caller caller, grpc::CallbackServerContext& context)
      : StreamingCall(core, std::move(caller), context, "AttendStream") {
    Watch();
    Step([] {});  // begins to read
  }

  void OnReadDone(bool ok) override {
    Step([&] {
      reading_ = false;
      if (!ok) {
        // Where the client has gone, a read may fail before OnCancel() says so.
        Fail(context_.IsCancelled() ? record_.ClientLeft() : HalfClosed());
      } else if (job_ == nullptr) {
        Fail(Begin());
      } else {
        Fail(ReceiveChunk());
      }
      in_.Clear();
    });
  }

  void OnWriteDone(bool ok) override {
    Step([&] {
      writing_ = false;
      out_.Clear();
      if (!ok) Fail(record_.ClientLeft());
      if (job_ != nullptr) job_->turn().Sent(std::exchange(writing_bytes_, 0));
      if (trailer_sent_) {
        Decide(absl::OkStatus());
      } else if (unit_ending_.has_value()) {
        job_->OutputSent(*std::exchange(unit_ending_, std::nullopt));
      }
    });
  }

  void CheckStall(Clock::time_point now) override {
    Step([&] {
      if (job_ != nullptr && !PayloadComplete() && now >= job_->context()->deadline) {
        Fail(absl::DeadlineExceededError("the deadline passed before all payload had come"));
      } else if (writing_) {
        if (!Stall(write_started_, now, "did not read its output")) return;
        context_.TryCancel();  // or the write would never end
      } else if (reading_ && !waiting_ && units_running_ == 0 && !PayloadComplete()) {
        Stall(read_started_, now, "sent nothing");
      }
    });
  }

 private:
  // A computed unit on its way out: output, then lse, chunk by chunk.
  struct Sending {
    std::uint32_t unit = 0;
    std::shared_ptr<Output> output;
    std::uint64_t sent = 0;
  };

  void GoOn() override {
    Fail(SubmitReady());
    if (decided()) return;
    Write();
    Read();
  }
  bool Busy() const override { return writing_ || waiting_ || units_running_ > 0; }
  void Failed() override {
    if (job_ == nullptr) return;
    job_->engine().Cancel(*job_->context());
    job_->turn().GiveUp();
  }
  void Release() override {
    sending_.clear();
    job_.reset();
  }
  const AttendJob* job() const override { return job_.get(); }

  bool PayloadComplete() const { return job_ != nullptr && job_->payload_complete(); }

  absl::Status HalfClosed() {
    reads_closed_ = true;
    if (PayloadComplete()) return absl::OkStatus();
    if (job_ == nullptr) return InvalidField("header", "the stream ended before it");
    return InvalidField("data", absl::StrCat("the stream ended after ", job_->received_bytes(),
                                             " of ", job_->payload_bytes(), " bytes"));
  }

  absl::Status Begin() {
    v1::AttendStreamRequest request;
    FrameData data;
    if (absl::Status status = ParseFrame(in_, &request, {&data, 1}); !status.ok()) return status;
    if (!request.has_header()) return InvalidField("header", "missing from the first message");
    if (request.has_chunk() || data.size > 0) {
      return InvalidField("chunk", "not allowed in the first message");
    }
    absl::StatusOr<std::unique_ptr<AttendJob>> job = core_.StartJob(
        caller_.tenant.name(), request.header(), context_,
        {.window_bytes = core_.window_bytes, .line = LineOf(caller_.tenant.name(), context_)});
    if (!job.ok()) return job.status();
    job_ = *std::move(job);

    v1::AttendStreamResponse response;
    v1::Accepted& accepted = *response.mutable_accepted();
    accepted.set_request_id(job_->request_id());
    accepted.set_window_bytes(job_->window_bytes());
    accepted.set_max_chunk_bytes(core_.max_chunk_bytes);
    accepted.set_server_id(core_.server_id);
    accepted.set_omits_unused_kv(job_->omits_unused_kv());
    accepted.mutable_units()->Reserve(static_cast<int>(job_->units().size()));
    for (const Unit& unit : job_->units()) ToProto(unit, accepted.add_units());
    accepted_ = MakeFrame(response);
    waiting_ = !job_->turn().Await([this] { TurnCome(); });
    return absl::OkStatus();
  }

  // On a thread of the ingest.
  void TurnCome() {
    Step([&] {
      waiting_ = false;
      read_started_ = Clock::now();
      if (decided()) return;
      Fail(job_->CheckTurn());
      // Refused, as if it had never been admitted, unless it has sent out of turn.
      if (decided() && job_->received_bytes() == 0) job_.reset();
    });
  }

  absl::Status ReceiveChunk() {
    v1::AttendStreamRequest request;
    FrameData data;
    if (absl::Status status = ParseFrame(in_, &request, {&data, 1}); !status.ok()) return status;
    if (request.has_header()) return InvalidField("header", "got a second one");
    if (!request.has_chunk()) return InvalidField("chunk", "missing");
    const v1::Chunk& chunk = request.chunk();
    const std::optional<Piece> piece = PayloadPiece(chunk.tensor());
    if (!piece.has_value()) {
      return InvalidField("chunk.tensor", absl::StrCat("got ", static_cast<int>(chunk.tensor()),
                                                       ", allowed Q (1), K (2), V (3)"));
    }
    if (data.size == 0) return InvalidField("data", "got 0 bytes, allowed at least 1");
    if (data.size > core_.max_chunk_bytes) {
      return LimitReached(
          "server.max_chunk_bytes",
          absl::StrCat("got ", data.size, " bytes, the limit is ", core_.max_chunk_bytes));
    }
    absl::StatusOr<AttendJob::Places> places =
        job_->Receive(*piece, chunk.unit(), chunk.offset(), data.size);
    if (!places.ok()) return places.status();
    const std::uint32_t crc = FrameReader(in_, data).CopyTo(*places, chunk.has_crc32c());
    if (chunk.has_crc32c()) {
      checksums_ = true;
      if (crc != chunk.crc32c()) {
        return absl::DataLossError(
            absl::StrCat("chunk.crc32c: got ", chunk.crc32c(), " for ", Name(*piece), " of unit ",
                         chunk.unit(), " at offset ", chunk.offset(), ", but the data has ", crc));
      }
    }
    record_.PayloadReceived(data.size);
    record_.PayloadCopied(data.size);
    return absl::OkStatus();
  }

  // Submits the units whose payload is here and which have room.
  absl::Status SubmitReady() {
    while (job_ != nullptr) {
      absl::StatusOr<std::optional<UnitWork>> work = job_->TakeReadyUnit();
      if (!work.ok()) return work.status();
      if (!work->has_value()) break;
      ++units_running_;
      (*work)->done = [this](UnitResult result) { UnitDone(std::move(result)); };
      job_->engine().Submit(**std::move(work));
    }
    return absl::OkStatus();
  }

  // On the engine's thread.
  void UnitDone(UnitResult result) {
    Step([&] {
      --units_running_;
      Fail(result.status);
      if (decided()) return;
      record_.UnitDone(result.timings);
      const Unit& unit = job_->units()[result.unit];
      job_->turn().Computed(unit.out_bytes + unit.lse_bytes);
      sending_.push_back(
          {result.unit,
           std::make_shared<Output>(Output{job_->host_reservation(), std::move(result.out)}), 0});
    });
  }

  void Read() {
    if (reading_ || reads_closed_ || (job_ != nullptr && !job_->CanReceive())) return;
    reading_ = true;
    read_started_ = Clock::now();
    StartRead(&in_);
  }

  void Write() {
    if (writing_ || waiting_ || trailer_sent_) return;
    if (accepted_.Valid()) {
      out_.Swap(&accepted_);
    } else if (!sending_.empty()) {
      out_ = NextChunk();
    } else if (job_ != nullptr && job_->done()) {
      v1::AttendStreamResponse response;
      *response.mutable_trailer() = record_.Trailer(*job_);
      out_ = MakeFrame(response);
      trailer_sent_ = true;
    } else {
      return;
    }
    writing_ = true;
    write_started_ = Clock::now();
    StartWrite(&out_);
  }

  grpc::ByteBuffer NextChunk() {
    Sending& sending = sending_.front();
    const Unit& unit = job_->units()[sending.unit];
    // A unit whose output stays is answered all the same, by a chunk without data.
    const bool lse = unit.lse_bytes > 0 && sending.sent >= unit.out_bytes;
    const std::uint64_t end = lse ? unit.out_bytes + unit.lse_bytes : unit.out_bytes;
    const std::uint64_t size = std::min(core_.chunk_bytes, end - sending.sent);
    v1::AttendStreamResponse response;
    v1::Chunk& chunk = *response.mutable_chunk();
    chunk.set_tensor(Role(lse ? Piece::kLse : Piece::kOut));
    chunk.set_unit(sending.unit);
    chunk.set_offset(lse ? sending.sent - unit.out_bytes : sending.sent);
    if (checksums_) {
      chunk.set_crc32c(ExtendCrc32c(0, sending.output->slab.data() + sending.sent, size));
    }
    grpc::ByteBuffer frame = MakeFrame(response, SliceOf(sending.output, sending.sent, size));
    record_.OutputSent(size);
    writing_bytes_ = size;
    sending.sent += size;
    if (sending.sent == unit.out_bytes + unit.lse_bytes) {
      unit_ending_ = sending.unit;
      sending_.pop_front();
    }
    return frame;
  }

  // All guarded by the lock of steps.
  std::unique_ptr<AttendJob> job_;  // null until the header was accepted, and after the end

  grpc::ByteBuffer in_;
  bool reading_ = false;       // a read is in flight
  bool reads_closed_ = false;  // the client has half-closed
  Clock::time_point read_started_;
  bool checksums_ = false;  // the client sends them, so it gets them too

  bool waiting_ = false;           // for its turn to send
  std::size_t units_running_ = 0;  // submitted and not done

  grpc::ByteBuffer out_;
  bool writing_ = false;             // a write is in flight
  std::uint64_t writing_bytes_ = 0;  // of output in it
  Clock::time_point write_started_;
  grpc::ByteBuffer accepted_;  // to be sent first
  std::deque<Sending> sending_;
  std::optional<std::uint32_t> unit_ending_;  // the write in flight is this unit's last
  bool trailer_sent_ = false;
};

}  // namespace

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartAttendStreamCall(
    AttentionCore& core, Caller caller, grpc::CallbackServerContext& context) {
  return new AttendStreamCall(core, std::move(caller), context);  // deletes itself in OnDone()
}

}  // namespace sage::server
