#include "server/random_id.h"

#include <cstdint>
#include <cstring>
#include <random>

#include "absl/strings/escaping.h"

namespace sage::server {

std::string RandomBits() {
  std::random_device source;  // getrandom() underneath
  std::string bits(16, '\0');
  for (std::size_t i = 0; i < bits.size(); i += sizeof(std::uint32_t)) {
    const std::uint32_t word = source();
    std::memcpy(bits.data() + i, &word, sizeof(word));
  }
  return bits;
}

std::string RandomId() { return absl::BytesToHexString(RandomBits()); }

}  // namespace sage::server
