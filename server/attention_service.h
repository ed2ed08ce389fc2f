// The Attention service: its two methods over one core.
//
// A method's call object turns messages into AttendJob chunks and unit results into messages;
// everything in between is the job's and the engine's.
#ifndef SAGE_SERVER_ATTENTION_SERVICE_H_
#define SAGE_SERVER_ATTENTION_SERVICE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "sage/v1/attention.grpc.pb.h"
#include "server/attend_job.h"
#include "server/callers.h"
#include "server/metrics.h"
#include "server/stall_watch.h"
#include "server/tensor_store.h"

namespace sage::server {

// How the tensors of a request travel.
struct Delivery {
  std::uint64_t window_bytes = 0;  // what the client may be ahead of its answers
  bool whole_entries = false;      // see JobSpec
  Ingest::LineId line = {};        // likewise
};

// Largest message that a server takes.
inline constexpr int kMaxMessageBytes = 8 << 20;

// What calls need; everything outlives the service.
struct AttentionCore {
  JobResources jobs;
  std::vector<Device*> devices;  // at least one
  Metrics& metrics;
  std::string server_id;
  std::uint64_t window_bytes;  // of a stream, see Accepted
  std::uint64_t max_mask_bytes;
  std::uint64_t max_unary_bytes;
  std::uint64_t chunk_bytes;      // of output chunks
  std::uint64_t max_chunk_bytes;  // of a client's chunks
  std::chrono::milliseconds stall_timeout;
  std::chrono::milliseconds default_deadline;  // of requests whose client gives none
  TensorStore& tensors;
  StallWatch& stalls;
  std::atomic<bool> draining = false;
  std::atomic<bool> device_lost = false;

  // UNAVAILABLE while draining and once a device is lost.
  absl::Status CheckOpen() const;

  // The spec of a request that may start, or why it may not. Sets the request id where there is
  // none.
  absl::StatusOr<std::unique_ptr<AttendJob>> StartJob(const std::string& tenant,
                                                      const v1::AttendHeader& header,
                                                      const grpc::CallbackServerContext& context,
                                                      Delivery delivery);
  // On the device that will have done it first, of those with memory for it.
  absl::StatusOr<std::unique_ptr<AttendJob>> StartAnywhere(const JobSpec& spec,
                                                           std::uint64_t window_bytes);
};

class AttentionService final
    : public v1::Attention::WithRawCallbackMethod_Attend<
          v1::Attention::WithRawCallbackMethod_AttendStream<v1::Attention::Service>> {
 public:
  AttentionService(AttentionCore& core, const Callers& callers) : core_(core), callers_(callers) {}

  grpc::ServerUnaryReactor* Attend(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* AttendStream(
      grpc::CallbackServerContext* context) override;

 private:
  AttentionCore& core_;
  const Callers& callers_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_ATTENTION_SERVICE_H_
