#include "proto/wire/random_id.h"

#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/escaping.h"

namespace sage {

std::string RandomBits() {
  std::string bits(16, '\0');
  // Not std::random_device, which asks the processor what it is every time: in a virtual machine
  // that takes longer than all else.
  if (getentropy(bits.data(), bits.size()) != 0) {
    throw std::system_error(errno, std::generic_category(), "getentropy");
  }
  return bits;
}

std::string RandomId() { return absl::BytesToHexString(RandomBits()); }

}  // namespace sage
