// How sagectl ends.
#ifndef SAGE_CLIENT_CLI_EXIT_CODE_H_
#define SAGE_CLIENT_CLI_EXIT_CODE_H_

#include "absl/status/status.h"

namespace sage::cli {

enum ExitCode : int {
  kSuccess = 0,
  kFailure = 1,   // the request, or the verification, failed
  kBadUsage = 2,  // options or input files that no request can be made of
};

// Print one line on stderr and return the code. kFailure names the status' code, which tells what
// the server made of the request.
int Fail(const absl::Status& status);
int RefuseUsage(const absl::Status& status);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_EXIT_CODE_H_
