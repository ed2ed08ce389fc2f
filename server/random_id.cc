#include "server/random_id.h"

#include <random>

#include "absl/strings/str_cat.h"

namespace sage::server {

std::string RandomId() {
  std::random_device source;  // getrandom() underneath
  std::string id;
  for (int word = 0; word < 4; ++word) absl::StrAppend(&id, absl::Hex(source(), absl::kZeroPad8));
  return id;
}

}  // namespace sage::server
