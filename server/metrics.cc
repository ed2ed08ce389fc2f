#include "server/metrics.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "prometheus/text_serializer.h"

namespace sage::server {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildHistogram;
using prometheus::Histogram;

constexpr std::array<const char*, 8> kStages = {"recv",   "queue", "h2d",  "prepare",
                                                "kernel", "d2h",   "send", "total"};

// From 50 us to 100 s, about three a decade.
const Histogram::BucketBoundaries kSeconds = {5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3,
                                              1e-2, 2e-2, 5e-2, 0.1,  0.2,  0.5,  1,
                                              2,    5,    10,   20,   50,   100};

prometheus::Counter* MakeCounter(prometheus::Registry& registry, const char* name,
                                 const char* help) {
  return &BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

// Asks for its values when it is scraped.
class GaugeSet : public prometheus::Collectable {
 public:
  explicit GaugeSet(std::vector<Gauge> gauges) : gauges_(std::move(gauges)) {}

  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<prometheus::MetricFamily> families;
    for (const Gauge& gauge : gauges_) {
      const std::string name = absl::StrCat("sage_", gauge.name);
      if (families.empty() || families.back().name != name) {
        const auto type =
            gauge.counts ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge;
        families.push_back({name, gauge.help, type, {}});
      }
      prometheus::ClientMetric metric;
      if (!gauge.label_name.empty()) metric.label = {{gauge.label_name, gauge.label_value}};
      (gauge.counts ? metric.counter.value : metric.gauge.value) = gauge.read();
      families.back().metric.push_back(std::move(metric));
    }
    return families;
  }

 private:
  const std::vector<Gauge> gauges_;
};

}  // namespace

Metrics::Metrics()
    : registry_(std::make_shared<prometheus::Registry>()),
      requests_(BuildCounter()
                    .Name("sage_requests_total")
                    .Help("Requests ended, by method and status code.")
                    .Register(*registry_)),
      rejected_(BuildCounter()
                    .Name("sage_rejected_total")
                    .Help("Requests refused by admission, by the limit that was met.")
                    .Register(*registry_)),
      cancelled_(BuildCounter()
                     .Name("sage_cancelled_total")
                     .Help("Requests ended by their client, by how far they had come.")
                     .Register(*registry_)),
      requests_ok_(MakeCounter(*registry_, "sage_requests_ok_total", "Requests answered.")),
      requests_failed_(
          MakeCounter(*registry_, "sage_requests_failed_total",
                      "Requests ended with an error, refusals and cancellations included.")),
      requests_stalled_(MakeCounter(*registry_, "sage_stalled_total",
                                    "Requests ended because the client neither read nor wrote.")),
      deadline_missed_(MakeCounter(*registry_, "sage_deadline_missed_total",
                                   "Requests that were accepted and did not end in time.")),
      bytes_in_(MakeCounter(*registry_, "sage_bytes_in_total", "Tensor bytes received.")),
      bytes_out_(MakeCounter(*registry_, "sage_bytes_out_total", "Tensor bytes sent.")),
      bytes_copied_(MakeCounter(*registry_, "sage_bytes_copied_total",
                                "Tensor bytes copied in user space, on their way in or out.")),
      block_density_(&BuildHistogram()
                          .Name("sage_block_density")
                          .Help("Listed blocks over existing blocks, per request.")
                          .Register(*registry_)
                          .Add({}, Histogram::BucketBoundaries{0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6,
                                                               0.7, 0.8, 0.9, 1.0})),
      effective_tops_(&BuildHistogram()
                           .Name("sage_kernel_effective_tops")
                           .Help("Effective operations over kernel time, per request, in 1e12/s.")
                           .Register(*registry_)
                           .Add({}, Histogram::BucketBoundaries{0.01, 0.1, 0.5, 1, 5, 10, 50, 100,
                                                                200, 400, 800, 1600, 3200, 6400})),
      batch_size_(&BuildHistogram()
                       .Name("sage_batch_size")
                       .Help("Units of requests in a launch.")
                       .Register(*registry_)
                       .Add({}, Histogram::BucketBoundaries{1, 2, 4, 8, 16, 32, 64})) {
  for (std::size_t i = 0; i < kStages.size(); ++i) {
    stages_[i] = &BuildHistogram()
                      .Name(absl::StrCat("sage_", kStages[i], "_seconds"))
                      .Help(absl::StrCat("Seconds of a request's ", kStages[i], " stage."))
                      .Register(*registry_)
                      .Add({}, kSeconds);
  }
}

void Metrics::Record(const RequestOutcome& outcome) {
  requests_.Add({{"rpc", outcome.rpc}, {"code", absl::StatusCodeToString(outcome.status.code())}})
      .Increment();
  (outcome.status.ok() ? requests_ok_ : requests_failed_)->Increment();
  const bool refused = !outcome.refused_for.empty();
  if (refused) {
    rejected_.Add({{"reason", outcome.refused_for}}).Increment();
    ++requests_rejected_;
  }
  if (outcome.cancelled_at[0] != '\0') {
    cancelled_.Add({{"stage", outcome.cancelled_at}}).Increment();
    ++requests_cancelled_;
  }
  if (outcome.stalled) {
    requests_stalled_->Increment();
  } else if (!refused && absl::IsDeadlineExceeded(outcome.status)) {
    deadline_missed_->Increment();
  }
  if (!outcome.status.ok() || !outcome.attended) return;
  const RequestOutcome::Stages& s = outcome.seconds;
  const std::array<double, 8> seconds = {s.recv,   s.queue, s.h2d,  s.prepare,
                                         s.kernel, s.d2h,   s.send, s.total};
  for (std::size_t i = 0; i < seconds.size(); ++i) stages_[i]->Observe(seconds[i]);
  block_density_->Observe(outcome.block_density);
  effective_tops_->Observe(outcome.effective_tops);
}

void Metrics::AddPayload(std::uint64_t bytes_in, std::uint64_t bytes_out,
                         std::uint64_t bytes_copied) {
  bytes_in_->Increment(static_cast<double>(bytes_in));
  bytes_out_->Increment(static_cast<double>(bytes_out));
  bytes_copied_->Increment(static_cast<double>(bytes_copied));
}

void Metrics::AddGauges(std::vector<Gauge> gauges) {
  gauges_.push_back(std::make_shared<GaugeSet>(std::move(gauges)));
}

absl::Status Metrics::Open(const std::string& address) {
  absl::StatusOr<std::unique_ptr<MetricsEndpoint>> endpoint =
      MetricsEndpoint::Open(address, [this] { return Text(); });
  if (!endpoint.ok()) return endpoint.status();
  endpoint_ = *std::move(endpoint);
  return absl::OkStatus();
}

std::string Metrics::Text() const {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  for (const std::shared_ptr<prometheus::Collectable>& set : gauges_) {
    for (prometheus::MetricFamily& family : set->Collect()) families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace sage::server
