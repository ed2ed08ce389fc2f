// A line on the terminal that shows how far a request is.
#ifndef SAGE_CLIENT_CLI_PROGRESS_BAR_H_
#define SAGE_CLIENT_CLI_PROGRESS_BAR_H_

#include <cstdint>

namespace sage::cli {

// Draws on stderr, and only where that is a terminal; erased when done. One thread at a time.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(std::int64_t done, std::int64_t total);

 private:
  const bool shown_;
  int last_percent_ = -1;
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_PROGRESS_BAR_H_
