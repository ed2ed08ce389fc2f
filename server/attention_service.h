// The Attention service: its two methods over one core.
//
// A method's call object turns messages into AttendJob chunks and unit results into messages;
// everything in between is the job's and the engine's.
#ifndef SAGE_SERVER_ATTENTION_SERVICE_H_
#define SAGE_SERVER_ATTENTION_SERVICE_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "sage/v1/attention.grpc.pb.h"
#include "server/attend_job.h"
#include "server/metrics.h"

namespace sage::server {

// How the tensors of a request travel.
struct Delivery {
  std::uint64_t window_bytes = 0;  // what the client may be ahead of its answers
  bool whole_entries = false;      // see JobSpec
};

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
  std::atomic<bool> draining = false;

  // The spec of a request that may start, or why it may not. Sets the request id where there is
  // none.
  absl::StatusOr<std::unique_ptr<AttendJob>> StartJob(const v1::AttendHeader& header,
                                                      const grpc::CallbackServerContext& context,
                                                      Delivery delivery);

 private:
  // The device with the least memory reserved.
  Device& LeastLoaded() const;
};

// A call that a peer can keep waiting.
class Stallable {
 public:
  virtual ~Stallable() = default;
  virtual void CheckStall(std::chrono::steady_clock::time_point now) = 0;
};

// Looks after streams that are open: asks each a few times a stall timeout whether its peer keeps
// it waiting. Thread-safe.
class StallWatch {
 public:
  explicit StallWatch(std::chrono::milliseconds stall_timeout);
  ~StallWatch();
  void Add(Stallable* call);
  void Remove(Stallable* call);  // `call` is not touched any more once this returns

 private:
  void Run();

  const std::chrono::milliseconds period_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::set<Stallable*> calls_;  // guarded by mutex_
  bool stopping_ = false;       // guarded by mutex_
  std::thread thread_;
};

class AttentionService final
    : public v1::Attention::WithRawCallbackMethod_Attend<
          v1::Attention::WithRawCallbackMethod_AttendStream<v1::Attention::Service>> {
 public:
  explicit AttentionService(AttentionCore& core) : core_(core), stalls_(core.stall_timeout) {}

  grpc::ServerUnaryReactor* Attend(grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer* request,
                                   grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* AttendStream(
      grpc::CallbackServerContext* context) override;

 private:
  AttentionCore& core_;
  StallWatch stalls_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_ATTENTION_SERVICE_H_
