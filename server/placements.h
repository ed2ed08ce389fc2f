// Which device a tensor goes to: with the others of its tenant and placement group.
#ifndef SAGE_SERVER_PLACEMENTS_H_
#define SAGE_SERVER_PLACEMENTS_H_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "server/device.h"

namespace sage::server {

// A group has a device for as long as a tensor of it lives or is being put. Thread-safe.
class Placements {
 public:
  using Group = std::shared_ptr<Device* const>;  // held by each of its tensors

  // The group of that name; `choose` picks a device where it has none. Tensors of a request must
  // be on one device, and a tensor's user knows best which ones those are.
  Group Join(const std::string& tenant, const std::string& name,
             const std::function<Device*()>& choose) {
    const std::lock_guard lock(mutex_);
    std::erase_if(groups_, [](const auto& entry) { return entry.second.expired(); });
    std::weak_ptr<Device* const>& entry = groups_[{tenant, name}];
    Group group = entry.lock();
    if (group == nullptr) entry = group = std::make_shared<Device* const>(choose());
    return group;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, std::weak_ptr<Device* const>>
      groups_;  // guarded by mutex_
};

}  // namespace sage::server

#endif  // SAGE_SERVER_PLACEMENTS_H_
