#include "client/internal/inline_call.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/convert.h"
#include "client/internal/status.h"
#include "client/internal/wire_header.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "proto/wire/frame.h"
#include "sage/v1/attention.pb.h"

namespace sage::internal {
namespace {

// Room for the header's small fields, the trailer and the tags of the payload fields.
constexpr std::size_t kSmallFieldsBytes = 4 << 10;

constexpr char kInlineMethod[] = "/sage.v1.Attention/Attend";

// Of the output that travels.
std::size_t OutBytes(const AttendRequest& request) {
  if (request.resident.out != nullptr) return 0;
  return request.problem.q_elements() * SizeOf(request.problem.output_dtype);
}

// Elements that travel of a tensor.
std::int64_t Travelling(const RemoteTensor* resident, std::int64_t elements) {
  return resident != nullptr ? 0 : elements;
}

std::size_t LseBytes(const AttentionProblem& problem) {
  return problem.return_lse ? problem.lse_elements() * sizeof(float) : 0;
}

// A running call. The RPC and every slice of memory that the transport still holds keep it alive;
// the last one to go completes it.
class InlineCall {
 public:
  InlineCall(std::string target, OutgoingRequest outgoing, Client::AttendCallback done)
      : target_(std::move(target)),
        outgoing_(std::move(outgoing)),
        request_(outgoing_.request()),
        done_(std::move(done)) {}

  static AttendCall Start(const std::shared_ptr<InlineCall>& call,
                          const std::shared_ptr<grpc::Channel>& channel, absl::Time deadline);

 private:
  // The request: the caller's tensors as they lie, or as converted.
  absl::StatusOr<grpc::ByteBuffer> MakeMessage();
  absl::StatusOr<const std::byte*> Converted(const void* tensor, std::int64_t elements);
  grpc::Slice Borrow(const std::byte* data, std::size_t size);

  void Cancel();
  void Unhold();
  absl::StatusOr<AttendReport> Result();

  const std::string target_;
  const OutgoingRequest outgoing_;
  const AttendRequest& request_;  // that one's
  const Client::AttendCallback done_;
  const absl::Time started_ = absl::Now();
  std::shared_ptr<InlineCall> self_;  // reset on completion
  std::atomic<int> holds_{1};

  std::vector<std::unique_ptr<std::byte[]>> converted_;
  grpc::ByteBuffer message_;
  grpc::ByteBuffer answer_;
  grpc::Status final_status_;

  std::mutex mutex_;
  // Guarded by mutex_. Goes before completion is told, since it holds the connection.
  std::shared_ptr<grpc::ClientContext> context_;
};

AttendCall InlineCall::Start(const std::shared_ptr<InlineCall>& call,
                             const std::shared_ptr<grpc::Channel>& channel, absl::Time deadline) {
  call->self_ = call;
  absl::StatusOr<grpc::ByteBuffer> message = call->MakeMessage();
  if (!message.ok()) {
    call->self_.reset();
    call->done_(message.status());
    return {};
  }
  call->message_ = *std::move(message);
  auto context = std::make_shared<grpc::ClientContext>();
  if (deadline != absl::InfiniteFuture()) context->set_deadline(absl::ToChronoTime(deadline));
  {
    const std::lock_guard lock(call->mutex_);
    call->context_ = context;
  }
  grpc::GenericStub(channel).UnaryCall(context.get(), kInlineMethod, {}, &call->message_,
                                       &call->answer_, [raw = call.get()](grpc::Status status) {
                                         raw->final_status_ = std::move(status);
                                         raw->message_.Clear();
                                         std::shared_ptr<grpc::ClientContext> over;
                                         {
                                           const std::lock_guard lock(raw->mutex_);
                                           over.swap(raw->context_);
                                         }
                                         over.reset();
                                         raw->Unhold();
                                       });
  return AttendCall([weak = std::weak_ptr<InlineCall>(call)] {
    if (const std::shared_ptr<InlineCall> running = weak.lock()) running->Cancel();
  });
}

absl::StatusOr<grpc::ByteBuffer> InlineCall::MakeMessage() {
  const AttentionProblem& problem = request_.problem;
  const auto& [q, k, v, mask, out] = request_.resident;
  struct Field {
    int number;
    v1::TensorRole role;
    std::int64_t elements;
  };
  const std::array<Field, 3> fields = {
      {{v1::AttendRequest::kQFieldNumber, v1::TENSOR_ROLE_Q, Travelling(q, problem.q_elements())},
       {v1::AttendRequest::kKFieldNumber, v1::TENSOR_ROLE_K, Travelling(k, problem.kv_elements())},
       {v1::AttendRequest::kVFieldNumber, v1::TENSOR_ROLE_V,
        Travelling(v, problem.kv_elements())}}};
  std::array<OutgoingTensor, 3> tensors;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (fields[i].elements == 0) continue;
    tensors[i] = outgoing_.tensor(fields[i].role);
    if (!tensors[i].from_float32) continue;
    absl::StatusOr<const std::byte*> converted = Converted(tensors[i].data, fields[i].elements);
    if (!converted.ok()) return converted.status();
    tensors[i].data = *converted;
  }
  std::array<FramePart, 3> parts;
  for (std::size_t i = 0; i < fields.size(); ++i) {
    if (fields[i].elements == 0) continue;
    parts[i] = {fields[i].number,
                {Borrow(tensors[i].data, fields[i].elements * tensors[i].element_bytes)}};
  }
  v1::AttendRequest small;
  *small.mutable_header() = outgoing_.header();
  return MakeFrame(small, parts);
}

absl::StatusOr<const std::byte*> InlineCall::Converted(const void* tensor, std::int64_t elements) {
  const DType dtype = request_.problem.dtype;
  converted_.push_back(std::make_unique_for_overwrite<std::byte[]>(elements * SizeOf(dtype)));
  std::byte* const data = converted_.back().get();
  if (absl::Status status = ConvertFromFloat32(tensor, elements, dtype, data); !status.ok()) {
    return status;
  }
  return data;
}

grpc::Slice InlineCall::Borrow(const std::byte* data, std::size_t size) {
  holds_.fetch_add(1, std::memory_order_relaxed);
  return {const_cast<std::byte*>(data), size,  // only ever read
          [](void* call) { static_cast<InlineCall*>(call)->Unhold(); }, this};
}

void InlineCall::Cancel() {
  std::shared_ptr<grpc::ClientContext> context;
  {
    const std::lock_guard lock(mutex_);
    context = context_;
  }
  if (context != nullptr) context->TryCancel();
}

void InlineCall::Unhold() {
  if (holds_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  const std::shared_ptr<InlineCall> self = std::move(self_);
  done_(Result());
}

absl::StatusOr<AttendReport> InlineCall::Result() {
  if (!final_status_.ok()) return FromGrpc(final_status_, target_);
  const std::size_t out_bytes = OutBytes(request_);
  const std::size_t lse_bytes = LseBytes(request_.problem);
  v1::AttendResponse response;
  std::array<FrameData, 2> data = {{{.field = v1::AttendResponse::kOutFieldNumber},
                                    {.field = v1::AttendResponse::kLseFieldNumber}}};
  const auto& [out, lse] = data;
  if (!ParseFrame(answer_, &response, data).ok()) {
    return absl::InternalError("the server broke the protocol: an answer that is not protobuf");
  }
  if (out.size != out_bytes || lse.size != lse_bytes) {
    return absl::InternalError(absl::StrCat("the server broke the protocol: output of ", out.size,
                                            " and lse of ", lse.size, " bytes, expected ",
                                            out_bytes, " and ", lse_bytes));
  }
  FrameReader(answer_, out).CopyTo({static_cast<std::byte*>(request_.out), out_bytes});
  FrameReader(answer_, lse).CopyTo({reinterpret_cast<std::byte*>(request_.lse), lse_bytes});
  if (request_.on_unit_done) request_.on_unit_done(1, 1);
  AttendReport report = MakeReport(response.trailer());
  report.wall_seconds = absl::ToDoubleSeconds(absl::Now() - started_);
  return report;
}

}  // namespace

std::size_t InlineMessageBytes(const AttendRequest& request) {
  const AttentionProblem& problem = request.problem;
  // A problem may have up to 2^62 elements; one whose parts are this large is far from inline, and
  // stopping here keeps the sum below from overflowing.
  constexpr std::int64_t kFarTooLarge = std::int64_t{1} << 40;
  if (problem.q_elements() > kFarTooLarge || problem.kv_elements() > kFarTooLarge) {
    return std::numeric_limits<std::size_t>::max();
  }
  std::size_t mask = 0;
  if (const auto* packed = std::get_if<const BlockMask*>(&request.mask)) {
    mask = (*packed)->bits().size();
  } else if (const auto* pattern = std::get_if<MaskPattern>(&request.mask)) {
    constexpr std::size_t kVarintBytes = 10;
    const auto* documents = std::get_if<DocumentPattern>(pattern);
    mask = documents == nullptr ? 0 : documents->lengths.size() * kVarintBytes;
  }
  constexpr std::size_t kLengthBytes = 10;  // a varint of each per-entry length
  const std::size_t lengths = (problem.seqlens_q.size() + problem.seqlens_k.size()) * kLengthBytes;
  const std::size_t element = SizeOf(problem.dtype);
  const ResidentTensors& resident = request.resident;
  const Int8Operands int8 = Int8Of(request);
  const std::size_t up = Travelling(resident.q, problem.q_elements()) * (int8.q ? 1 : element) +
                         Travelling(resident.k, problem.kv_elements()) * (int8.k ? 1 : element) +
                         Travelling(resident.v, problem.kv_elements()) * element +
                         ScaleBytes(request) + mask + lengths;
  const std::size_t down = OutBytes(request) + LseBytes(problem);
  return std::max(up, down) + kSmallFieldsBytes;
}

AttendCall StartInlineCall(const std::shared_ptr<grpc::Channel>& channel,
                           const ClientOptions& options, OutgoingRequest outgoing,
                           absl::Time deadline, Client::AttendCallback done) {
  return InlineCall::Start(
      std::make_shared<InlineCall>(options.target, std::move(outgoing), std::move(done)), channel,
      deadline);
}

}  // namespace sage::internal
