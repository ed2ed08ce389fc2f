// A line on the terminal that shows how far something is and how long it will take.
#ifndef SAGE_CLIENT_CLI_PROGRESS_BAR_H_
#define SAGE_CLIENT_CLI_PROGRESS_BAR_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "client/cli/status_line.h"

namespace sage::cli {

// Draws on stderr, and only where that is a terminal; erased when done. One thread at a time.
class ProgressBar {
 public:
  // `fraction` of the work, in [0, 1], is done; `what` follows the bar.
  void Update(double fraction, const std::string& what);
  // For AttendRequest::on_unit_done; holds `this`.
  std::function<void(std::int64_t done, std::int64_t total)> UnitProgress();

 private:
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  StatusLine line_;
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_PROGRESS_BAR_H_
