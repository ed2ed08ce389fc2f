#include "client/client.h"

#include <algorithm>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/internal/channels.h"
#include "client/internal/inline_call.h"
#include "client/internal/outgoing_request.h"
#include "client/internal/restored_call.h"
#include "client/internal/status.h"
#include "client/internal/stream_call.h"
#include "client/internal/striped_call.h"
#include "client/internal/stripes.h"
#include "client/internal/tensor_home.h"
#include "client/internal/wire_header.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "sage/v1/server.grpc.pb.h"

namespace sage {
namespace {

constexpr int kMaxConnections = 16;
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
  if (options.connections < 1 || options.connections > kMaxConnections) {
    return absl::InvalidArgumentError(absl::StrCat("connections: ", options.connections,
                                                   ", must be between 1 and ", kMaxConnections));
  }
  return absl::OkStatus();
}

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
  explicit RunningCalls(std::size_t connections) : by_connection(connections) {}

  // The connection of a new call.
  std::size_t Add() {
    const std::lock_guard lock(mutex);
    const auto fewest = std::min_element(by_connection.begin(), by_connection.end());
    ++*fewest;
    return fewest - by_connection.begin();
  }
  void Remove(std::size_t connection) {
    const std::lock_guard lock(mutex);
    --by_connection[connection];
    none.notify_all();
  }
  // Of calls on resident tensors, whether or not they have a connection at the time.
  void AddRestored() {
    const std::lock_guard lock(mutex);
    ++restored;
  }
  void RemoveRestored() {
    const std::lock_guard lock(mutex);
    --restored;
    none.notify_all();
  }
  void AwaitNone() {
    std::unique_lock lock(mutex);
    none.wait(lock, [this] {
      return restored == 0 &&
             std::all_of(by_connection.begin(), by_connection.end(), [](int n) { return n == 0; });
    });
  }

  std::mutex mutex;
  std::condition_variable none;
  // Guarded by mutex.
  std::vector<int> by_connection;
  int restored = 0;
};

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(ClientOptions options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> channels =
      internal::OpenChannels(options);
  if (!channels.ok()) return channels.status();
  return std::unique_ptr<Client>(new Client(std::move(options), *std::move(channels)));
}

Client::Client(ClientOptions options, std::vector<std::shared_ptr<grpc::Channel>> channels)
    : options_(std::move(options)),
      channels_(std::move(channels)),
      running_(std::make_shared<RunningCalls>(channels_.size())),
      home_(std::make_shared<internal::TensorHome>(channels_.front(), options_.target)) {}

Client::~Client() { running_->AwaitNone(); }

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
  const absl::Time deadline = absl::Now() + TimeoutOr(request.timeout);
  if (!request.resident.any()) return AttendOnce(std::move(request), deadline, std::move(done));
  running_->AddRestored();
  const ResidentTensors resident = request.resident;
  return internal::StartRestoredCall(
      [this, request = std::move(request), deadline](AttendCallback once) {
        return AttendOnce(request, deadline, std::move(once));
      },
      [resident, deadline](internal::RestoreWait::Done restored) {
        return RestoreTensors(resident, deadline, std::move(restored));
      },
      [running = running_, done = std::move(done)](absl::StatusOr<AttendReport> report) {
        done(std::move(report));
        running->RemoveRestored();  // the client's end waits for this
      });
}

AttendCall Client::AttendOnce(AttendRequest request, absl::Time deadline, AttendCallback done) {
  if (absl::Status status = internal::CheckRequest(request); !status.ok()) {
    done(std::move(status));
    return {};
  }
  const bool is_inline = internal::InlineMessageBytes(request) <= options_.inline_limit_bytes;
  std::vector<internal::Stripe> stripes;
  if (!is_inline) stripes = internal::PlanStripes(request, options_.connections);
  if (stripes.size() <= 1) {
    const internal::HeadsInMemory heads{request.problem.num_heads_q, request.problem.num_heads_kv};
    return Start({std::move(request), heads, nullptr, std::nullopt}, is_inline, deadline,
                 std::move(done));
  }
  return internal::StartStripedCall(
      request, std::move(stripes),
      [&](internal::Stripe stripe, AttendCallback stripe_done) {
        // The header is made before this returns, so the mask that it copies need not live longer.
        return Start(std::move(stripe), /*is_inline=*/false, deadline, std::move(stripe_done));
      },
      std::move(done));
}

AttendCall Client::Start(internal::Stripe stripe, bool is_inline, absl::Time deadline,
                         AttendCallback done) {
  const std::size_t connection = running_->Add();
  // By now the call has let go of the connection.
  AttendCallback finish = [running = running_, connection,
                           done = std::move(done)](absl::StatusOr<AttendReport> report) {
    done(std::move(report));
    running->Remove(connection);  // the client's end waits for this
  };
  absl::StatusOr<internal::OutgoingRequest> outgoing = internal::OutgoingRequest::Make(
      std::move(stripe.request), /*streamed=*/!is_inline, stripe.begin);
  if (!outgoing.ok()) {
    finish(outgoing.status());
    return {};
  }
  if (is_inline) {
    return internal::StartInlineCall(channels_[connection], options_, *std::move(outgoing),
                                     deadline, std::move(finish));
  }
  return internal::StreamCall::Start(channels_[connection], options_, *std::move(outgoing),
                                     stripe.heads, deadline, std::move(finish));
}

absl::StatusOr<v1::ServerInfo> Client::GetInfo(absl::Duration timeout) {
  const auto stub = v1::Server::NewStub(channels_.front());
  return CallServer<v1::ServerInfo>(options_.target, absl::Now() + TimeoutOr(timeout),
                                    [&](grpc::ClientContext* context, v1::ServerInfo* response) {
                                      return stub->GetInfo(context, {}, response);
                                    });
}

absl::StatusOr<v1::Statistics> Client::GetStatistics(absl::Duration timeout) {
  if (absl::Status one = internal::CheckOneServer(options_.target); !one.ok()) return one;
  const auto stub = v1::Server::NewStub(channels_.front());
  return CallServer<v1::Statistics>(options_.target, absl::Now() + TimeoutOr(timeout),
                                    [&](grpc::ClientContext* context, v1::Statistics* response) {
                                      return stub->GetStatistics(context, {}, response);
                                    });
}

}  // namespace sage
