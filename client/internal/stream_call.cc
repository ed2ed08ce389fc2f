#include "client/internal/stream_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/convert.h"
#include "client/internal/status.h"
#include "client/internal/wire_header.h"
#include "grpcpp/channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "proto/wire/crc32c.h"

namespace sage::internal {
namespace {

constexpr char kStreamMethod[] = "/sage.v1.Attention/AttendStream";

absl::Status BrokenProtocol(const std::string& what) {
  return absl::InternalError(absl::StrCat("the server broke the protocol: ", what));
}

}  // namespace

// Memory of a gathered chunk, while the transport holds it.
struct StreamCall::SendBuffer {
  StreamCall* call;
  std::unique_ptr<std::byte[]> data;
};

AttendCall StreamCall::Start(std::shared_ptr<grpc::Channel> channel, const ClientOptions& options,
                             OutgoingRequest outgoing, HeadsInMemory heads, absl::Time deadline,
                             Client::AttendCallback done) {
  auto call = std::make_shared<StreamCall>(options, std::move(outgoing), heads, std::move(done));
  call->self_ = call;
  auto context = std::make_shared<grpc::ClientContext>();
  if (deadline != absl::InfiniteFuture()) context->set_deadline(absl::ToChronoTime(deadline));
  grpc::GenericStub stub(std::move(channel));
  stub.PrepareBidiStreamingCall(context.get(), kStreamMethod, {}, call.get());
  {
    const std::lock_guard lock(call->mutex_);
    call->context_ = std::move(context);
  }

  v1::AttendStreamRequest first;
  *first.mutable_header() = call->outgoing_request_.header();
  call->outgoing_ = MakeFrame(first);
  call->HandOver();
  call->StartWrite(&call->outgoing_);
  call->StartRead(&call->incoming_);
  call->StartCall();

  return AttendCall([weak = std::weak_ptr<StreamCall>(call)] {
    if (const std::shared_ptr<StreamCall> running = weak.lock()) running->Cancel();
  });
}

StreamCall::StreamCall(const ClientOptions& options, OutgoingRequest outgoing, HeadsInMemory heads,
                       Client::AttendCallback done)
    : options_(options),
      outgoing_request_(std::move(outgoing)),
      request_(outgoing_request_.request()),
      heads_(heads),
      done_(std::move(done)) {}

void StreamCall::OnWriteDone(bool ok) {
  HandOver();
  if (!ok) return;  // the call is over; OnDone says why
  outgoing_.Clear();
  const PayloadChunk& chunk = outgoing_chunk_;
  if (chunk.size > 0 && request_.on_range_done) {
    const OutgoingTensor tensor = outgoing_request_.tensor(chunk.tensor);
    const std::int64_t scale = tensor.from_float32 ? 2 : 1;
    if (tensor.borrowed) {
      ReportRange(tensor.data, *chunk.piece, chunk.offset, chunk.size, scale);
    }
  }
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
  }
  Pump();
}

void StreamCall::OnReadDone(bool ok) {
  HandOver();
  if (!ok) return;  // no more messages; OnDone follows
  if (absl::Status status = HandleResponse(); !status.ok()) {
    Fail(std::move(status));
    return;
  }
  incoming_.Clear();
  HandOver();
  StartRead(&incoming_);
  Pump();
}

void StreamCall::OnDone(const grpc::Status& status) {
  final_status_ = status;
  outgoing_.Clear();
  std::shared_ptr<grpc::ClientContext> context;
  {
    const std::lock_guard lock(mutex_);
    context.swap(context_);
  }
  context.reset();
  Unhold();
}

absl::Status StreamCall::HandleResponse() {
  v1::AttendStreamResponse message;
  FrameData data;
  if (absl::Status status = ParseFrame(incoming_, &message, {&data, 1}); !status.ok()) {
    return BrokenProtocol("a message that is not valid protobuf");
  }
  if (trailer_) return BrokenProtocol("a message after the trailer");
  if (!plan_) {
    if (!message.has_accepted()) return BrokenProtocol("no plan in the first message");
    return HandlePlan(message.accepted());
  }
  if (message.has_trailer()) {
    trailer_ = std::move(*message.mutable_trailer());
    return absl::OkStatus();
  }
  if (!message.has_chunk()) return BrokenProtocol("a message that is neither chunk nor trailer");
  return HandleChunk(message.chunk(), data);
}

absl::Status StreamCall::HandlePlan(const v1::Accepted& accepted) {
  absl::StatusOr<UnitPlan> plan =
      CheckPlan(request_.problem, heads_, accepted, {Int8Of(request_), request_.prequantize},
                request_.resident, outgoing_request_.used_blocks());
  if (!plan.ok()) return plan.status();
  server_id_ = accepted.server_id();
  plan_ = *std::move(plan);
  const std::lock_guard lock(mutex_);
  progress_.resize(plan_->units.size());
  cursor_.emplace(&*plan_, std::min(static_cast<std::int64_t>(options_.chunk_bytes),
                                    std::min(plan_->max_chunk_bytes, plan_->window_bytes)));
  return absl::OkStatus();
}

absl::Status StreamCall::HandleChunk(const v1::Chunk& chunk, FrameData data) {
  if (chunk.unit() >= plan_->units.size()) {
    return BrokenProtocol(
        absl::StrCat("a chunk of unit ", chunk.unit(), ", of ", plan_->units.size()));
  }
  const PlannedUnit& unit = plan_->units[chunk.unit()];
  const bool is_lse = chunk.tensor() == v1::TENSOR_ROLE_LSE;
  if (!is_lse && chunk.tensor() != v1::TENSOR_ROLE_OUTPUT) {
    return BrokenProtocol(absl::StrCat("a chunk of tensor ", chunk.tensor()));
  }
  const TensorPiece& runs = is_lse ? unit.lse : unit.out;
  const auto size = static_cast<std::int64_t>(data.size);
  std::int64_t received;
  {
    const std::lock_guard lock(mutex_);
    UnitProgress& progress = progress_[chunk.unit()];
    received = is_lse ? progress.lse : progress.out;
    if (chunk.offset() != static_cast<std::uint64_t>(received) || size > runs.bytes() - received) {
      return BrokenProtocol(absl::StrCat("bytes ", chunk.offset(), " to ",
                                         chunk.offset() + data.size, " of unit ", chunk.unit(),
                                         " where ", received, " of ", runs.bytes(), " had come"));
    }
  }

  auto* whole =
      is_lse ? reinterpret_cast<std::byte*>(request_.lse) : static_cast<std::byte*>(request_.out);
  std::uint32_t crc = 0;
  std::int64_t at = received;
  for (FrameReader reader(incoming_, data); reader.left() > 0;) {
    const std::span<const std::byte> piece = reader.Next(data.size);
    const auto bytes = static_cast<std::int64_t>(piece.size());
    if (chunk.has_crc32c()) crc = ExtendCrc32c(crc, piece.data(), piece.size());
    ScatterPiece(runs, piece.data(), at, bytes, whole);
    at += bytes;
  }
  if (chunk.has_crc32c() && crc != chunk.crc32c()) {
    return absl::DataLossError(absl::StrCat("output of unit ", chunk.unit(), " at byte ",
                                            chunk.offset(), " arrived damaged: crc32c ", crc,
                                            ", sent as ", chunk.crc32c()));
  }
  if (request_.on_range_done && size > 0) ReportRange(whole, runs, received, size, 1);

  {
    const std::lock_guard lock(mutex_);
    UnitProgress& progress = progress_[chunk.unit()];
    (is_lse ? progress.lse : progress.out) = at;
    if (progress.answered || progress.out != unit.out.bytes() || progress.lse != unit.lse.bytes()) {
      return absl::OkStatus();
    }
    progress.answered = true;
    if (progress.sent != unit.payload_bytes()) {
      return BrokenProtocol(
          absl::StrCat("unit ", chunk.unit(), " was answered before all of it was sent"));
    }
    // A unit of which nothing travels never entered the window.
    if (progress.sent > 0) in_window_ -= unit.window_bytes();
  }
  ++units_done_;
  if (request_.on_unit_done) {
    const std::lock_guard lock(hook_mutex_);
    request_.on_unit_done(units_done_, static_cast<std::int64_t>(plan_->units.size()));
  }
  return absl::OkStatus();
}

void StreamCall::Pump() {
  PayloadChunk chunk;
  {
    const std::lock_guard lock(mutex_);
    if (writing_ || writes_done_ || !cursor_ || !failure_.ok()) return;
    if (cursor_->done()) {
      writes_done_ = true;
    } else {
      chunk = cursor_->Next();
      std::int64_t window_bytes = chunk.size;
      if (chunk.first_of_unit) window_bytes += plan_->units[chunk.unit].omitted_bytes;
      if (in_window_ + window_bytes > plan_->window_bytes) return;
      cursor_->Advance();
      progress_[chunk.unit].sent += chunk.size;
      in_window_ += window_bytes;
      writing_ = true;
    }
  }
  if (chunk.size == 0) {
    StartWritesDone();
    return;
  }
  absl::StatusOr<grpc::Slice> payload = TakePayload(chunk);
  if (!payload.ok()) {
    Fail(payload.status());
    return;
  }
  v1::AttendStreamRequest message;
  message.mutable_chunk()->set_tensor(chunk.tensor);
  message.mutable_chunk()->set_unit(chunk.unit);
  message.mutable_chunk()->set_offset(chunk.offset);
  if (request_.checksums) {
    message.mutable_chunk()->set_crc32c(ExtendCrc32c(0, payload->begin(), payload->size()));
  }
  outgoing_chunk_ = chunk;
  outgoing_ = MakeFrame(message, *std::move(payload));
  HandOver();
  StartWrite(&outgoing_);
}

absl::StatusOr<grpc::Slice> StreamCall::TakePayload(const PayloadChunk& chunk) {
  const OutgoingTensor tensor = outgoing_request_.tensor(chunk.tensor);
  if (chunk.contiguous && !tensor.from_float32) {
    holds_.fetch_add(1, std::memory_order_relaxed);
    auto* bytes = const_cast<std::byte*>(tensor.data + chunk.tensor_offset);  // only ever read
    return grpc::Slice(bytes, chunk.size, &ReleaseBorrowed, this);
  }

  auto buffer = std::make_unique<SendBuffer>();
  buffer->call = this;
  {
    const std::lock_guard lock(mutex_);
    if (!spare_buffers_.empty()) {
      buffer->data = std::move(spare_buffers_.back());
      spare_buffers_.pop_back();
    }
  }
  if (buffer->data == nullptr) {
    buffer->data = std::make_unique_for_overwrite<std::byte[]>(options_.chunk_bytes);
  }
  std::byte* data = buffer->data.get();
  if (tensor.from_float32) {
    // The piece is laid out for 16-bit elements; these are twice as wide.
    absl::Status status;
    const DType dtype = request_.problem.dtype;
    chunk.piece->ForEachRun(
        chunk.offset, chunk.size, [&](std::int64_t at, std::int64_t done, std::int64_t bytes) {
          const auto count = bytes / static_cast<std::int64_t>(SizeOf(dtype));
          status.Update(ConvertFromFloat32(tensor.data + 2 * at, count, dtype, data + done));
        });
    if (!status.ok()) return status;
  } else {
    GatherPiece(*chunk.piece, tensor.data, chunk.offset, chunk.size, data);
  }
  holds_.fetch_add(1, std::memory_order_relaxed);
  return grpc::Slice(data, chunk.size, &ReleaseBuffer, buffer.release());
}

void StreamCall::ReportRange(const std::byte* tensor, const TensorPiece& piece, std::int64_t offset,
                             std::int64_t size, std::int64_t scale) {
  const std::int64_t begin = piece.Find(offset).offset;
  const std::int64_t end = piece.Find(offset + size - 1).offset + 1;
  // Spread thinly, as some heads of an NHD tensor are: the pieces to come want the same pages.
  constexpr std::int64_t kThin = 4;
  if (end - begin > kThin * size) return;
  const std::lock_guard lock(hook_mutex_);
  request_.on_range_done(tensor + scale * begin, scale * (end - begin));
}

void StreamCall::Cancel() {
  std::shared_ptr<grpc::ClientContext> context;
  {
    const std::lock_guard lock(mutex_);
    context = context_;
  }
  if (context != nullptr) context->TryCancel();
}

void StreamCall::Fail(absl::Status status) {
  {
    const std::lock_guard lock(mutex_);
    if (failure_.ok()) failure_ = std::move(status);
  }
  Cancel();
}

void StreamCall::Unhold() {
  if (holds_.fetch_sub(1, std::memory_order_acq_rel) == 1) Complete();
}

void StreamCall::Complete() {
  const std::shared_ptr<StreamCall> self = std::move(self_);
  done_(Result());
}

absl::StatusOr<AttendReport> StreamCall::Result() {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return failure_;
  }
  if (!final_status_.ok()) return FromGrpc(final_status_, options_.target);
  if (!trailer_) return BrokenProtocol("it ended without a trailer");
  if (units_done_ != static_cast<std::int64_t>(plan_->units.size())) {
    return BrokenProtocol(
        absl::StrCat("it ended after ", units_done_, " of ", plan_->units.size(), " units"));
  }
  AttendReport report = MakeReport(*trailer_);
  report.server_id = server_id_;
  report.wall_seconds = absl::ToDoubleSeconds(absl::Now() - started_);
  return report;
}

void StreamCall::ReleaseBorrowed(void* call) { static_cast<StreamCall*>(call)->Unhold(); }

void StreamCall::ReleaseBuffer(void* buffer) {
  const std::unique_ptr<SendBuffer> owned(static_cast<SendBuffer*>(buffer));
  StreamCall* call = owned->call;
  {
    const std::lock_guard lock(call->mutex_);
    call->spare_buffers_.push_back(std::move(owned->data));
  }
  call->Unhold();
}

}  // namespace sage::internal
