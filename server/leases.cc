#include "server/leases.h"

namespace sage::server {

void Leases::Set(const std::string& id, TimePoint end) {
  Drop(id);
  ends_[id] = end;
  in_order_.emplace(end, id);
}

void Leases::Drop(const std::string& id) {
  const auto found = ends_.find(id);
  if (found == ends_.end()) return;
  in_order_.erase({found->second, id});
  ends_.erase(found);
}

std::optional<Leases::TimePoint> Leases::earliest() const {
  if (in_order_.empty()) return std::nullopt;
  return in_order_.begin()->first;
}

std::vector<std::string> Leases::TakeExpired(TimePoint now) {
  std::vector<std::string> expired;
  while (!in_order_.empty() && in_order_.begin()->first <= now) {
    expired.push_back(in_order_.begin()->second);
    ends_.erase(expired.back());
    in_order_.erase(in_order_.begin());
  }
  return expired;
}

}  // namespace sage::server
