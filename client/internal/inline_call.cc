#include "client/internal/inline_call.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/convert.h"
#include "client/internal/status.h"
#include "client/internal/wire_header.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "sage/v1/attention.grpc.pb.h"

namespace sage::internal {
namespace {

// Room for the header's small fields, the trailer and the tags of the payload fields.
constexpr std::size_t kSmallFieldsBytes = 4 << 10;

// What a running call needs; owned by its completion callback.
struct InlineCall {
  AttendRequest request;
  std::string target;
  absl::Time started = absl::Now();
  v1::AttendRequest message;
  v1::AttendResponse response;

  std::mutex mutex;
  // Guarded by mutex. Goes before completion is told, since it holds the connection.
  std::shared_ptr<grpc::ClientContext> context;
};

void Cancel(InlineCall& call) {
  std::shared_ptr<grpc::ClientContext> context;
  {
    const std::lock_guard lock(call.mutex);
    context = call.context;
  }
  if (context != nullptr) context->TryCancel();
}

void ReleaseConnection(InlineCall& call) {
  std::shared_ptr<grpc::ClientContext> context;
  const std::lock_guard lock(call.mutex);
  context.swap(call.context);
}

std::size_t OutBytes(const AttentionProblem& problem) {
  return problem.q_elements() * SizeOf(problem.output_dtype);
}

std::size_t LseBytes(const AttentionProblem& problem) {
  return problem.return_lse ? problem.lse_elements() * sizeof(float) : 0;
}

absl::Status FillTensor(const AttendRequest& request, const void* source, std::int64_t elements,
                        std::string* field) {
  field->resize(elements * SizeOf(request.problem.dtype));
  if (request.float32_inputs) {
    return ConvertFromFloat32(source, elements, request.problem.dtype, field->data());
  }
  std::memcpy(field->data(), source, field->size());
  return absl::OkStatus();
}

absl::Status FillMessage(const AttendRequest& request, v1::AttendRequest* message) {
  const AttentionProblem& problem = request.problem;
  *message->mutable_header() = MakeHeader(request);
  absl::Status status = FillTensor(request, request.q, problem.q_elements(), message->mutable_q());
  status.Update(FillTensor(request, request.k, problem.kv_elements(), message->mutable_k()));
  status.Update(FillTensor(request, request.v, problem.kv_elements(), message->mutable_v()));
  return status;
}

absl::StatusOr<AttendReport> TakeResponse(const InlineCall& call) {
  const AttendRequest& request = call.request;
  const v1::AttendResponse& response = call.response;
  if (response.out().size() != OutBytes(request.problem) ||
      response.lse().size() != LseBytes(request.problem)) {
    return absl::InternalError(
        absl::StrCat("the server broke the protocol: output of ", response.out().size(),
                     " and lse of ", response.lse().size(), " bytes, expected ",
                     OutBytes(request.problem), " and ", LseBytes(request.problem)));
  }
  std::memcpy(request.out, response.out().data(), response.out().size());
  if (request.lse != nullptr) {
    std::memcpy(request.lse, response.lse().data(), response.lse().size());
  }
  if (request.on_unit_done) request.on_unit_done(1, 1);
  AttendReport report = MakeReport(response.trailer());
  report.wall_seconds = absl::ToDoubleSeconds(absl::Now() - call.started);
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
  const std::size_t up =
      (problem.q_elements() + 2 * problem.kv_elements()) * SizeOf(problem.dtype) + mask + lengths;
  const std::size_t down = OutBytes(problem) + LseBytes(problem);
  return std::max(up, down) + kSmallFieldsBytes;
}

AttendCall StartInlineCall(const std::shared_ptr<grpc::Channel>& channel,
                           const ClientOptions& options, AttendRequest request, absl::Time deadline,
                           Client::AttendCallback done) {
  auto call = std::make_shared<InlineCall>();
  call->request = std::move(request);
  call->target = options.target;
  if (absl::Status status = FillMessage(call->request, &call->message); !status.ok()) {
    done(std::move(status));
    return {};
  }
  auto context = std::make_shared<grpc::ClientContext>();
  if (deadline != absl::InfiniteFuture()) context->set_deadline(absl::ToChronoTime(deadline));
  {
    const std::lock_guard lock(call->mutex);
    call->context = context;
  }
  v1::Attention::NewStub(channel)->async()->Attend(
      context.get(), &call->message, &call->response,
      [call, done = std::move(done)](const grpc::Status& status) {
        ReleaseConnection(*call);
        done(status.ok() ? TakeResponse(*call)
                         : absl::StatusOr<AttendReport>(FromGrpc(status, call->target)));
      });
  return AttendCall([weak = std::weak_ptr<InlineCall>(call)] {
    if (const std::shared_ptr<InlineCall> running = weak.lock()) Cancel(*running);
  });
}

}  // namespace sage::internal
