#include "client/cli/exit_code.h"

#include <iostream>

namespace sage::cli {

int Fail(const absl::Status& status) {
  std::cerr << "sagectl: " << absl::StatusCodeToString(status.code()) << ": " << status.message()
            << '\n';
  return kFailure;
}

int RefuseUsage(const absl::Status& status) {
  std::cerr << "sagectl: " << status.message() << '\n';
  return kBadUsage;
}

}  // namespace sage::cli
