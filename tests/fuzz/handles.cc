// The table of resident tensors beside a map that does the same.
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/tensor_table.h"
#include "tests/fuzz/byte_source.h"
#include "tests/fuzz/device.h"
#include "tests/fuzz/targets.h"

namespace sage::fuzz {
namespace {

using server::TensorTable;
using TimePoint = TensorTable::TimePoint;

struct Known {
  std::string tenant;
  std::string key;
  std::shared_ptr<server::ResidentTensor> tensor;
  TimePoint lease_end;
};

}  // namespace

void Handles(Input input) {
  ByteSource source(input);
  TensorTable table;
  std::map<std::string, Known> model;
  std::vector<std::string> ids = {"", "sixteen bytes id"};
  TimePoint now{};
  const auto tenant = [&] { return std::string(1, static_cast<char>('a' + source.Byte() % 3)); };
  const auto id = [&] { return ids[source.Byte() % ids.size()]; };
  const auto alive = [&](const std::string& owner, const std::string& handle) {
    const auto found = model.find(handle);
    return found != model.end() && found->second.tenant == owner && found->second.lease_end > now
               ? &found->second
               : nullptr;
  };
  while (!source.empty()) {
    const std::uint8_t step = source.Byte() % 6;
    const std::string owner = tenant();
    const TimePoint lease_end = now + std::chrono::seconds(source.Byte());
    if (step == 0) {
      const std::string key(source.Byte() % 3, 'k');
      server::TensorSpec spec;
      spec.seqlen = source.Range(1, 2);
      auto tensor = std::make_shared<server::ResidentTensor>(spec, SharedDevice(), 1,
                                                             server::ResidentTensor::Holdings{});
      const auto entry = table.Insert(owner, key, tensor, lease_end, now);
      const Known* before = nullptr;
      for (const auto& [handle, known] : model) {
        if (!key.empty() && known.key == key && alive(owner, handle) != nullptr) before = &known;
      }
      if (before != nullptr) {
        Promise(entry.ok() == (before->tensor->spec().seqlen == spec.seqlen), "a key is for one");
        Promise(!entry.ok() || entry->tensor == before->tensor, "a key finds its tensor again");
      } else {
        Promise(entry.ok() && entry->tensor == tensor, "a new tensor gets a handle");
        Promise(entry->id.size() == 16 && model.count(entry->id) == 0, "handles differ");
        model[entry->id] = {owner, key, tensor, lease_end};
        ids.push_back(entry->id);
      }
    } else if (step == 1) {
      const std::string handle = id();
      const Known* const known = alive(owner, handle);
      const auto found = table.Find(owner, handle, now);
      Promise(found.has_value() == (known != nullptr), "only its tenant finds a live handle");
      Promise(!found || found->tensor == known->tensor, "a handle finds its tensor");
    } else if (step == 2) {
      const std::string handle = id();
      const bool known = alive(owner, handle) != nullptr;
      Promise(table.Renew(owner, handle, lease_end, now) == known, "a live lease is renewed");
      if (known) model[handle].lease_end = lease_end;
    } else if (step == 3) {
      const std::string handle = id();
      table.Release(owner, handle);
      const auto found = model.find(handle);
      if (found != model.end() && found->second.tenant == owner) model.erase(found);
    } else if (step == 4) {
      now += std::chrono::seconds(source.Byte());
    } else {
      table.Expire(now);
      std::erase_if(model, [&](const auto& entry) { return entry.second.lease_end <= now; });
      Promise(table.size() == model.size(), "leases end, others stay");
    }
  }
}

}  // namespace sage::fuzz
