// What the server counts: one set of figures behind both the Prometheus endpoint and GetStatistics.
#ifndef SAGE_SERVER_METRICS_H_
#define SAGE_SERVER_METRICS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "server/metrics_endpoint.h"

namespace sage::server {

// How one request went.
struct RequestOutcome {
  const char* rpc = "";
  absl::Status status;
  std::string refused_for;        // the reason where admission refused it; else empty
  const char* cancelled_at = "";  // how far it had come where its client ended it; else empty
  bool stalled = false;           // ended because the peer kept the server waiting
  bool attended = false;          // was an attention; the figures below are of those only
  // In seconds; see Timings in types.proto.
  struct Stages {
    double recv = 0, queue = 0, h2d = 0, prepare = 0, kernel = 0, d2h = 0, send = 0, total = 0;
  } seconds;
  double block_density = 0;
  double effective_tops = 0;
};

// Figures that are read when asked for: name without prefix, help, and where the value comes from.
// One that counts never goes down.
struct Gauge {
  std::string name;
  std::string help;
  std::function<double()> read;
  std::string label_name = {};
  std::string label_value = {};
  bool counts = false;
};

// Thread-safe.
class Metrics {
 public:
  Metrics();

  void Record(const RequestOutcome& outcome);
  // A launch of so many units on a device.
  void RecordLaunch(std::size_t units) { batch_size_->Observe(static_cast<double>(units)); }
  void AddPayload(std::uint64_t bytes_in, std::uint64_t bytes_out, std::uint64_t bytes_copied);

  std::uint64_t requests_ok() const { return Count(*requests_ok_); }
  std::uint64_t requests_failed() const { return Count(*requests_failed_); }
  std::uint64_t requests_rejected() const { return requests_rejected_; }
  std::uint64_t requests_cancelled() const { return requests_cancelled_; }
  std::uint64_t bytes_in() const { return Count(*bytes_in_); }
  std::uint64_t bytes_out() const { return Count(*bytes_out_); }
  std::uint64_t bytes_copied() const { return Count(*bytes_copied_); }

  // Adds gauges, which must be readable until the endpoint is closed.
  void AddGauges(std::vector<Gauge> gauges);

  // Serves http://ADDRESS/metrics until closed. Fails as MetricsEndpoint does.
  absl::Status Open(const std::string& address);
  void Close() { endpoint_.reset(); }
  // Port of the endpoint, 0 where none is open.
  int port() const { return endpoint_ == nullptr ? 0 : endpoint_->port(); }

 private:
  std::string Text() const;  // of all figures, in Prometheus' format

  static std::uint64_t Count(const prometheus::Counter& counter) {
    return static_cast<std::uint64_t>(counter.Value());
  }

  std::shared_ptr<prometheus::Registry> registry_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Counter>& rejected_;
  prometheus::Family<prometheus::Counter>& cancelled_;
  std::atomic<std::uint64_t> requests_rejected_ = 0;   // for all reasons
  std::atomic<std::uint64_t> requests_cancelled_ = 0;  // at all stages
  prometheus::Counter* requests_ok_;
  prometheus::Counter* requests_failed_;
  prometheus::Counter* requests_stalled_;
  prometheus::Counter* deadline_missed_;
  prometheus::Counter* bytes_in_;
  prometheus::Counter* bytes_out_;
  prometheus::Counter* bytes_copied_;
  std::array<prometheus::Histogram*, 8> stages_;
  prometheus::Histogram* block_density_;
  prometheus::Histogram* effective_tops_;
  prometheus::Histogram* batch_size_;
  std::vector<std::shared_ptr<prometheus::Collectable>> gauges_;
  std::unique_ptr<MetricsEndpoint> endpoint_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_METRICS_H_
