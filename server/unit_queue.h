// The units that wait for a device, and whose turn it is.
//
// Tenants take turns by deficit round-robin (Shreedhar and Varghese, 1995): each turn adds a
// quantum of device time to what a tenant may use, and its units run as long as they cost no more
// than that. The quantum is the largest cost of any tenant's next unit, so that every turn runs
// something. So tenants that have units waiting get equal device time, however many requests each
// of them sends. Within a tenant, units of larger priority go first, then those that came first.
#ifndef SAGE_SERVER_UNIT_QUEUE_H_
#define SAGE_SERVER_UNIT_QUEUE_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "server/unit_work.h"

namespace sage::server {

// Externally synchronised.
class UnitQueue {
 public:
  void Push(UnitWork work);

  bool empty() const { return turns_.empty(); }
  std::size_t size() const { return size_; }

  // The unit whose turn it is, and taking it out. Of a queue that is not empty.
  const UnitWork& Next();
  UnitWork Pop();

  // Takes out all units for which `drop` holds, those of a request in their order.
  std::vector<UnitWork> Extract(const std::function<bool(const UnitWork&)>& drop);

  // Estimated device time of all units.
  double seconds() const;
  // Of those that run before the last of `own_seconds` more of this tenant and priority.
  double SecondsAhead(const std::string& tenant, int priority, double own_seconds) const;

 private:
  struct Units {
    std::deque<UnitWork> works;
    double seconds = 0;
  };
  struct Tenant {
    std::map<int, Units, std::greater<>> by_priority;  // no empty ones
    double deficit = 0;                                // seconds that it may still use in this turn

    const UnitWork& next() const { return by_priority.begin()->second.works.front(); }
    double seconds(int least_priority) const;
  };
  using Tenants = std::map<std::string, Tenant>;

  double Quantum() const;
  void EndTurn();  // of the tenant in front, which leaves where it has nothing more

  Tenants tenants_;                      // that have units
  std::deque<Tenants::iterator> turns_;  // all of them, next turn first
  bool turn_begun_ = false;              // the first one's
  std::size_t size_ = 0;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_UNIT_QUEUE_H_
