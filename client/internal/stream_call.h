// One AttendStream: follows the server's plan, straight from and to the caller's memory.
#ifndef SAGE_CLIENT_INTERNAL_STREAM_CALL_H_
#define SAGE_CLIENT_INTERNAL_STREAM_CALL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/attend_request.h"
#include "client/client.h"
#include "client/internal/outgoing_request.h"
#include "client/internal/payload_cursor.h"
#include "client/internal/unit_plan.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/client_callback.h"
#include "grpcpp/support/slice.h"
#include "proto/wire/frame.h"
#include "sage/v1/attention.pb.h"

namespace sage::internal {

// Reads and writes at the same time: one write in flight, one read always pending. Writing pauses
// where the window is full and goes on from the read that empties it. The caller's memory is given
// to the transport as it lies wherever a stretch of it is long enough; `done` is called when the
// RPC has ended *and* the transport has let go of that memory.
//
// Owns itself from Start() to completion. Reactions come from gRPC's threads, reads and writes
// possibly at once; mutex_ guards what they share and is not held across calls into gRPC, which may
// run a reaction before they return.
class StreamCall final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // `heads` says how the request's tensors lie in memory. `deadline` may be infinite.
  static AttendCall Start(std::shared_ptr<grpc::Channel> channel, const ClientOptions& options,
                          OutgoingRequest outgoing, HeadsInMemory heads, absl::Time deadline,
                          Client::AttendCallback done);

  StreamCall(const ClientOptions& options, OutgoingRequest outgoing, HeadsInMemory heads,
             Client::AttendCallback done);
  ~StreamCall() override = default;

 private:
  struct SendBuffer;

  // What came back of a unit so far, in bytes.
  struct UnitProgress {
    std::int64_t out = 0;
    std::int64_t lse = 0;
    std::int64_t sent = 0;  // payload; counts against the window until the unit is back
    bool answered = false;  // all of it is back
  };

  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  absl::Status HandleResponse();
  absl::Status HandlePlan(const v1::Accepted& accepted);
  absl::Status HandleChunk(const v1::Chunk& chunk, FrameData data);

  // Starts the next write if there is one to start.
  void Pump();
  absl::StatusOr<grpc::Slice> TakePayload(const PayloadChunk& chunk);
  // Tells the caller of bytes [offset, offset + size) of a piece; `scale` is the width of elements
  // in memory over that on the wire.
  void ReportRange(const std::byte* tensor, const TensorPiece& piece, std::int64_t offset,
                   std::int64_t size, std::int64_t scale);

  void Cancel();

  // Orders what this thread has written before what the next callback reads, on whichever thread.
  // gRPC does so too, but inside its library, where ThreadSanitizer does not see it.
  void HandOver() { const std::lock_guard lock(mutex_); }
  // Records the first failure found on this side and ends the call.
  void Fail(absl::Status status);

  // The RPC and every slice of memory that the transport still holds keep the call alive; the last
  // one to go completes it.
  void Unhold();
  void Complete();
  absl::StatusOr<AttendReport> Result();
  static void ReleaseBorrowed(void* call);
  static void ReleaseBuffer(void* buffer);

  const ClientOptions options_;
  const OutgoingRequest outgoing_request_;
  const AttendRequest& request_;  // that one's
  const HeadsInMemory heads_;
  const Client::AttendCallback done_;
  const absl::Time started_ = absl::Now();
  std::shared_ptr<StreamCall> self_;  // reset on completion
  std::atomic<std::int64_t> holds_{1};
  grpc::Status final_status_;

  // Reading; touched by one reaction at a time.
  grpc::ByteBuffer incoming_;
  std::optional<v1::AttendTrailer> trailer_;
  std::string server_id_;
  std::int64_t units_done_ = 0;

  // Written once, before the first payload is sent.
  std::optional<UnitPlan> plan_;

  // Writing.
  grpc::ByteBuffer outgoing_;
  PayloadChunk outgoing_chunk_;
  std::mutex mutex_;  // guards what follows, up to hook_mutex_
  // Goes when the RPC is over, before completion is told: it holds the connection, and memory that
  // a failed write has left in gRPC's call.
  std::shared_ptr<grpc::ClientContext> context_;
  std::vector<UnitProgress> progress_;
  std::optional<PayloadCursor> cursor_;
  std::int64_t in_window_ = 0;  // sent bytes of units not yet back
  bool writing_ = true;         // the header is the first write
  bool writes_done_ = false;
  absl::Status failure_;
  std::vector<std::unique_ptr<std::byte[]>> spare_buffers_;

  std::mutex hook_mutex_;  // held while a hook of the request runs
};

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_STREAM_CALL_H_
