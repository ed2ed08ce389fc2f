// The Prometheus endpoint: GET /metrics over HTTP.
#ifndef SAGE_SERVER_METRICS_ENDPOINT_H_
#define SAGE_SERVER_METRICS_ENDPOINT_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "server/connection_acceptor.h"

namespace sage::server {

// Answers one scrape at a time, each on a connection of its own, which is ended where it takes
// longer than a second. Serves from Open() to destruction.
class MetricsEndpoint {
 public:
  // `text` makes the answer, on the endpoint's thread. INVALID_ARGUMENT for an address that is
  // none, UNAVAILABLE for one that cannot be bound.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Open(const std::string& address,
                                                               std::function<std::string()> text);

  int port() const { return acceptor_.port(); }

 private:
  explicit MetricsEndpoint(std::function<std::string()> text) : text_(std::move(text)) {}
  void Answer(int fd) const;

  const std::function<std::string()> text_;
  ConnectionAcceptor acceptor_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_METRICS_ENDPOINT_H_
