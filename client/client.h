// The client: attention as a call to a sage-server.
//
//   auto client = sage::Client::Connect({.target = "127.0.0.1:50051"});
//   sage::AttendRequest request;
//   request.problem = {...};
//   request.q = q; request.k = k; request.v = v; request.out = out;
//   absl::StatusOr<sage::AttendReport> report = (*client)->Attend(request);
#ifndef SAGE_CLIENT_CLIENT_H_
#define SAGE_CLIENT_CLIENT_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/attend_request.h"
#include "client/remote_tensor.h"
#include "sage/v1/server.pb.h"

namespace grpc {
class Channel;
}

namespace sage {
namespace internal {
class RestoreWait;
struct Stripe;
}  // namespace internal

// PEM files; all are read again when they change, for the connections that are made from then on.
struct TlsOptions {
  // Whose certificates the server may show, for the host of the target; empty: the system's.
  std::string root_certificates = {};
  // The client's own, with its chain, and its key; empty: none.
  std::string certificate = {};
  std::string key = {};
};

struct ClientOptions {
  // host:port, or unix:/path of a socket. Or several servers: all those behind a name,
  // dns:///name:port, or in a list, ipv4:10.0.0.5:50051,10.0.0.6:50051. Calls take turns over those
  // whose health is good; stripes of one request may go to different ones.
  std::string target = "127.0.0.1:50051";
  std::optional<TlsOptions> tls = {};  // absent: nothing is encrypted
  // Sent with every call; or a file that holds it, which other users may not read and which is
  // read again when it changes. Both empty: none. Without TLS it is sent within this machine only.
  std::string token = {};
  std::string token_file = {};
  absl::Duration default_timeout = absl::InfiniteDuration();
  // Requests whose messages, both ways, stay within this are sent as one message; all others are
  // streamed. The server takes up to 3 MiB, ordinary stubs receive up to 4.
  std::size_t inline_limit_bytes = 5 << 19;
  // Payload of one streamed message; the server may ask for less.
  std::size_t chunk_bytes = 1 << 20;
  // One connection is one socket and one HTTP/2 flow of data. Requests of 16 MiB and more are cut
  // into stripes, batch entries or heads of at least 8 MiB each, that travel side by side, each
  // admitted by the server for itself; calls that run at once are spread. 1 to 16; connections are
  // made when first used.
  int connections = 4;
};

// A running AttendAsync. Copies refer to the same call; an empty one, or one whose call is over,
// does nothing.
class AttendCall {
 public:
  AttendCall() = default;
  explicit AttendCall(std::function<void()> cancel) : cancel_(std::move(cancel)) {}

  // Asks for an early end: completion still comes, with CANCELLED unless the call was already over.
  // Thread-safe.
  void Cancel() const {
    if (cancel_) cancel_();
  }

 private:
  std::function<void()> cancel_;
};

// Some connections to one server. Thread-safe; any number of calls may run at once.
//
// Errors are the server's (proto/sage/v1/attention.proto), with its details appended to the
// message, and these of the client itself: INVALID_ARGUMENT for a request that is not valid,
// UNAVAILABLE where the server cannot be reached, INTERNAL or DATA_LOSS for an answer that breaks
// the protocol. Nothing is retried but what AttendAsync() says; a call that no server has read when
// its connection is told to end goes over the next one.
class Client {
 public:
  using AttendCallback = std::function<void(absl::StatusOr<AttendReport>)>;

  // Prepares the connections; they are made by the calls that use them. INVALID_ARGUMENT for a bad
  // option, a file of the credentials included.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(ClientOptions options);
  // Waits for running calls to end; cancel them first where that may take long. Not to be called
  // from a completion callback: the connection goes with the client, and waits for its threads.
  ~Client();

  // AttendAsync(), waited for. On failure, `out` and `lse` hold unspecified values.
  absl::StatusOr<AttendReport> Attend(const AttendRequest& request);

  // Puts a tensor of `problem` at the server, to be used by any number of requests: see
  // ResidentTensors. `data` is whole, packed, in the problem's dtype and layout, and stays valid
  // for as long as the RemoteTensor lives, since it is sent again should the server lose it. Keys
  // are kept prepared for the problem's precision. RESOURCE_EXHAUSTED and FAILED_PRECONDITION where
  // it does not fit into the server's quota or memory.
  absl::StatusOr<RemoteTensor> Put(TensorRole role, const AttentionProblem& problem,
                                   const void* data, const PutOptions& options = {});
  // A mask for `problem`, of which only the shape counts. INVALID_ARGUMENT for none.
  absl::StatusOr<RemoteTensor> PutMask(const AttentionProblem& problem, const RequestMask& mask,
                                       const PutOptions& options = {});
  // Room for the output of requests of `problem`'s shape, type and layout; zeros until one of them
  // has written it.
  absl::StatusOr<RemoteTensor> PutOutput(const AttentionProblem& problem,
                                         const PutOptions& options = {});

  // Where the server has lost resident tensors of the request, as after a restart, they are put
  // again and it is sent once more, all within its timeout.
  //
  // Calls `done` exactly once, on a thread of the library or before returning; it must not block.
  // The request's tensors may be freed once `done` is called, not before: a cancelled call may hold
  // them for as long as the socket has bytes to write, at most about 40 s where the peer is gone.
  AttendCall AttendAsync(AttendRequest request, AttendCallback done);

  // Of one of the servers, where the target is several; GetStatistics is FAILED_PRECONDITION then.
  absl::StatusOr<v1::ServerInfo> GetInfo(absl::Duration timeout = absl::ZeroDuration());
  absl::StatusOr<v1::Statistics> GetStatistics(absl::Duration timeout = absl::ZeroDuration());

  const ClientOptions& options() const { return options_; }

 private:
  struct RunningCalls;

  Client(ClientOptions options, std::vector<std::shared_ptr<grpc::Channel>> channels);
  absl::Duration TimeoutOr(absl::Duration timeout) const;
  AttendCall AttendOnce(AttendRequest request, absl::Time deadline, AttendCallback done);
  // Has those put again that the server has lost; see RestoreWait::Start().
  static std::shared_ptr<internal::RestoreWait> RestoreTensors(
      const ResidentTensors& tensors, absl::Time deadline,
      std::function<void(absl::Status)> restored);
  absl::StatusOr<RemoteTensor> Keep(std::shared_ptr<internal::TensorState> state,
                                    const PutOptions& options);
  // One call, of a part of a request or all of it, over the connection that has the fewest.
  AttendCall Start(internal::Stripe stripe, bool is_inline, absl::Time deadline,
                   AttendCallback done);

  const ClientOptions options_;
  const std::vector<std::shared_ptr<grpc::Channel>> channels_;  // one connection each
  const std::shared_ptr<RunningCalls> running_;                 // shared with the calls
  const std::shared_ptr<internal::TensorHome> home_;            // shared with the tensors
};

}  // namespace sage

#endif  // SAGE_CLIENT_CLIENT_H_
