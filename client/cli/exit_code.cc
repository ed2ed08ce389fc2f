#include "client/cli/exit_code.h"

#include <unistd.h>

#include <iostream>
#include <string>

#include "client/cli/terminal.h"

namespace sage::cli {
namespace {

std::string Prefix() { return Paint("sagectl:", Tone::kBad, ColoursOn(STDERR_FILENO)) + ' '; }

}  // namespace

int Fail(const absl::Status& status) {
  std::cerr << Prefix() << absl::StatusCodeToString(status.code()) << ": " << status.message()
            << '\n';
  return kFailure;
}

int RefuseUsage(const absl::Status& status) {
  std::cerr << Prefix() << status.message() << '\n';
  return kBadUsage;
}

}  // namespace sage::cli
