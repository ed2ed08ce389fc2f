#include "client/client.h"

#include <algorithm>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/internal/inline_call.h"
#include "client/internal/outgoing_request.h"
#include "client/internal/status.h"
#include "client/internal/stream_call.h"
#include "client/internal/wire_header.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "sage/v1/server.grpc.pb.h"

namespace sage {
namespace {

constexpr int kMaxReceiveMessageBytes = 8 << 20;
constexpr int kKeepaliveTimeMs = 30'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr std::size_t kMinChunkBytes = 4 << 10;
constexpr std::size_t kMaxChunkBytes = 2 << 20;
// The server refuses unary messages above 3 MiB.
constexpr std::size_t kMaxInlineBytes = 3 << 20;

absl::Status CheckOptions(const ClientOptions& options) {
  if (options.target.empty()) {
    return absl::InvalidArgumentError("target: empty; give HOST:PORT or unix:/PATH");
  }
  if (options.default_timeout <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError("default_timeout: must be positive");
  }
  if (options.inline_limit_bytes > kMaxInlineBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "inline_limit_bytes: ", options.inline_limit_bytes, ", at most ", kMaxInlineBytes));
  }
  if (options.chunk_bytes < kMinChunkBytes || options.chunk_bytes > kMaxChunkBytes) {
    return absl::InvalidArgumentError(absl::StrCat("chunk_bytes: ", options.chunk_bytes,
                                                   ", must be between ", kMinChunkBytes, " and ",
                                                   kMaxChunkBytes));
  }
  return absl::OkStatus();
}

absl::Time DeadlineAfter(absl::Duration timeout) { return absl::Now() + timeout; }

// One control call of the Server service.
template <typename Response, typename Call>
absl::StatusOr<Response> CallServer(const std::string& target, absl::Time deadline, Call call) {
  grpc::ClientContext context;
  if (deadline != absl::InfiniteFuture()) context.set_deadline(absl::ToChronoTime(deadline));
  Response response;
  const grpc::Status status = call(&context, &response);
  if (!status.ok()) return internal::FromGrpc(status, target);
  return response;
}

}  // namespace

struct Client::RunningCalls {
  std::mutex mutex;
  std::condition_variable none;
  int count = 0;  // guarded by mutex
};

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(ClientOptions options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxReceiveMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveTimeMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // a retry would have to keep all data sent so far
  // Its own connection, not one shared with other clients of the process.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  std::shared_ptr<grpc::Channel> channel =
      grpc::CreateCustomChannel(options.target, grpc::InsecureChannelCredentials(), arguments);
  return std::unique_ptr<Client>(new Client(std::move(options), std::move(channel)));
}

Client::Client(ClientOptions options, std::shared_ptr<grpc::Channel> channel)
    : options_(std::move(options)),
      channel_(std::move(channel)),
      running_(std::make_shared<RunningCalls>()) {}

Client::~Client() {
  std::unique_lock lock(running_->mutex);
  running_->none.wait(lock, [this] { return running_->count == 0; });
}

absl::Duration Client::TimeoutOr(absl::Duration timeout) const {
  return timeout == absl::ZeroDuration() ? options_.default_timeout : timeout;
}

absl::StatusOr<AttendReport> Client::Attend(const AttendRequest& request) {
  // Shared, since the library may still be leaving set_value() when the answer is here.
  const auto result = std::make_shared<std::promise<absl::StatusOr<AttendReport>>>();
  AttendAsync(request, [result](absl::StatusOr<AttendReport> report) {
    result->set_value(std::move(report));
  });
  return result->get_future().get();
}

AttendCall Client::AttendAsync(AttendRequest request, AttendCallback done) {
  if (absl::Status status = internal::CheckRequest(request); !status.ok()) {
    done(std::move(status));
    return {};
  }
  {
    const std::lock_guard lock(running_->mutex);
    ++running_->count;
  }
  // By now the call has let go of the connection.
  AttendCallback finish = [running = running_,
                           done = std::move(done)](absl::StatusOr<AttendReport> report) {
    {
      const std::lock_guard lock(running->mutex);
      if (--running->count == 0) running->none.notify_all();
    }
    done(std::move(report));
  };
  const absl::Time deadline = DeadlineAfter(TimeoutOr(request.timeout));
  const bool is_inline = internal::InlineMessageBytes(request) <= options_.inline_limit_bytes;
  absl::StatusOr<internal::OutgoingRequest> outgoing =
      internal::OutgoingRequest::Make(std::move(request));
  if (!outgoing.ok()) {
    finish(outgoing.status());
    return {};
  }
  if (is_inline) {
    return internal::StartInlineCall(channel_, options_, *std::move(outgoing), deadline,
                                     std::move(finish));
  }
  return internal::StreamCall::Start(channel_, options_, *std::move(outgoing), deadline,
                                     std::move(finish));
}

absl::StatusOr<v1::ServerInfo> Client::GetInfo(absl::Duration timeout) {
  const auto stub = v1::Server::NewStub(channel_);
  return CallServer<v1::ServerInfo>(options_.target, DeadlineAfter(TimeoutOr(timeout)),
                                    [&](grpc::ClientContext* context, v1::ServerInfo* response) {
                                      return stub->GetInfo(context, {}, response);
                                    });
}

absl::StatusOr<v1::Statistics> Client::GetStatistics(absl::Duration timeout) {
  const auto stub = v1::Server::NewStub(channel_);
  return CallServer<v1::Statistics>(options_.target, DeadlineAfter(TimeoutOr(timeout)),
                                    [&](grpc::ClientContext* context, v1::Statistics* response) {
                                      return stub->GetStatistics(context, {}, response);
                                    });
}

}  // namespace sage
