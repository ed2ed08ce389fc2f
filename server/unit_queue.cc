#include "server/unit_queue.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace sage::server {
namespace {

// No unit is free, or one tenant's could run for ever.
constexpr double kLeastCost = 1e-6;

double Cost(const UnitWork& work) { return std::max(work.seconds, kLeastCost); }

}  // namespace

double UnitQueue::Tenant::seconds(int least_priority) const {
  double sum = 0;
  for (const auto& [priority, units] : by_priority) {
    if (priority < least_priority) break;
    sum += units.seconds;
  }
  return sum;
}

void UnitQueue::Push(UnitWork work) {
  const auto [tenant, joins] = tenants_.try_emplace(work.request->tenant);
  if (joins) turns_.push_back(tenant);
  Units& units = tenant->second.by_priority[work.request->priority];
  units.seconds += Cost(work);
  units.works.push_back(std::move(work));
  ++size_;
}

const UnitWork& UnitQueue::Next() {
  while (true) {
    Tenant& tenant = turns_.front()->second;
    if (!turn_begun_) {
      tenant.deficit += Quantum();
      turn_begun_ = true;
    }
    if (Cost(tenant.next()) <= tenant.deficit) return tenant.next();
    EndTurn();
  }
}

UnitWork UnitQueue::Pop() {
  Next();
  Tenant& tenant = turns_.front()->second;
  const auto first = tenant.by_priority.begin();
  Units& units = first->second;
  UnitWork work = std::move(units.works.front());
  units.works.pop_front();
  units.seconds -= Cost(work);
  tenant.deficit -= Cost(work);
  if (units.works.empty()) tenant.by_priority.erase(first);
  --size_;
  if (tenant.by_priority.empty()) EndTurn();
  return work;
}

std::vector<UnitWork> UnitQueue::Extract(const std::function<bool(const UnitWork&)>& drop) {
  std::vector<UnitWork> dropped;
  for (auto& [name, tenant] : tenants_) {
    for (auto& [priority, units] : tenant.by_priority) {
      std::deque<UnitWork> kept;
      units.seconds = 0;
      for (UnitWork& work : units.works) {
        if (drop(work)) {
          dropped.push_back(std::move(work));
        } else {
          units.seconds += Cost(work);
          kept.push_back(std::move(work));
        }
      }
      units.works = std::move(kept);
    }
    std::erase_if(tenant.by_priority, [](const auto& entry) { return entry.second.works.empty(); });
  }
  size_ -= dropped.size();
  if (!turns_.empty() && turns_.front()->second.by_priority.empty()) turn_begun_ = false;
  std::erase_if(turns_, [](const auto& tenant) { return tenant->second.by_priority.empty(); });
  std::erase_if(tenants_, [](const auto& entry) { return entry.second.by_priority.empty(); });
  return dropped;
}

double UnitQueue::seconds() const {
  double sum = 0;
  for (const auto& [name, tenant] : tenants_) {
    sum += tenant.seconds(std::numeric_limits<int>::min());
  }
  return sum;
}

double UnitQueue::SecondsAhead(const std::string& tenant, int priority, double own_seconds) const {
  double ahead = 0;
  if (const auto found = tenants_.find(tenant); found != tenants_.end()) {
    ahead = found->second.seconds(priority);
  }
  // Meanwhile each other tenant uses no more than this one does.
  double others = 0;
  for (const auto& [name, other] : tenants_) {
    if (name == tenant) continue;
    others += std::min(other.seconds(std::numeric_limits<int>::min()), ahead + own_seconds);
  }
  return ahead + others;
}

double UnitQueue::Quantum() const {
  double quantum = 0;
  for (const auto& [name, tenant] : tenants_) quantum = std::max(quantum, Cost(tenant.next()));
  return quantum;
}

void UnitQueue::EndTurn() {
  const Tenants::iterator tenant = turns_.front();
  turns_.pop_front();
  turn_begun_ = false;
  if (tenant->second.by_priority.empty()) {
    tenants_.erase(tenant);
  } else {
    turns_.push_back(tenant);
  }
}

}  // namespace sage::server
