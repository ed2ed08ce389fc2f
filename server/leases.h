// When things end unless they are renewed.
#ifndef SAGE_SERVER_LEASES_H_
#define SAGE_SERVER_LEASES_H_

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace sage::server {

// Ends of leases by id, and in order of time. Externally synchronised.
class Leases {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // Grants or renews.
  void Set(const std::string& id, TimePoint end);
  void Drop(const std::string& id);

  // Of an id that has a lease.
  TimePoint end(const std::string& id) const { return ends_.at(id); }
  std::optional<TimePoint> earliest() const;
  // Drops the leases that end at `now` or before, and names them.
  std::vector<std::string> TakeExpired(TimePoint now);

 private:
  std::map<std::string, TimePoint> ends_;
  std::set<std::pair<TimePoint, std::string>> in_order_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_LEASES_H_
