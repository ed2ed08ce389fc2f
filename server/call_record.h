// The record of one request: when its stages began and ended, how it went, and its line in the log.
#ifndef SAGE_SERVER_CALL_RECORD_H_
#define SAGE_SERVER_CALL_RECORD_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/grpcpp.h"
#include "sage/v1/attention.pb.h"
#include "server/attend_job.h"
#include "server/metrics.h"

namespace sage::server {

// Externally synchronised.
class CallRecord {
 public:
  using Clock = std::chrono::steady_clock;

  // `rpc` is the method's name, a literal.
  CallRecord(const char* rpc, const grpc::CallbackServerContext& context);

  // What a client's going away means: CANCELLED, or DEADLINE_EXCEEDED where its deadline has come.
  absl::Status ClientLeft() const;

  void PayloadReceived(std::uint64_t bytes);
  void OutputSent(std::uint64_t bytes);
  // Payload or output bytes that the processor copied from one place in memory to another.
  void PayloadCopied(std::uint64_t bytes) { bytes_copied_ += bytes; }
  void UnitDone(const UnitTimings& timings);
  void Stalled() { stalled_ = true; }

  // The trailer of a request whose output has all been handed to the transport.
  v1::AttendTrailer Trailer(const AttendJob& job) const;

  // Counts and logs the request; to be called once, at its end. `job` is null where none was
  // started.
  void Close(const absl::Status& status, const AttendJob* job, Metrics& metrics) const;

 private:
  RequestOutcome::Stages Stages() const;
  // How far the request had come, in a word for metrics.
  const char* Progress(const AttendJob* job) const;

  const char* const rpc_;
  const std::string peer_;
  const std::string trace_;                               // fields of the log line
  const std::chrono::system_clock::time_point deadline_;  // the client's
  const std::chrono::system_clock::time_point called_ = std::chrono::system_clock::now();
  const Clock::time_point started_ = Clock::now();
  Clock::time_point first_in_, last_in_, first_out_, last_out_;
  std::uint64_t bytes_in_ = 0;
  std::uint64_t bytes_out_ = 0;
  std::uint64_t bytes_copied_ = 0;
  UnitTimings device_;
  std::size_t units_done_ = 0;
  bool stalled_ = false;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_CALL_RECORD_H_
