// A line on the terminal that is written over and over.
#ifndef SAGE_CLIENT_CLI_STATUS_LINE_H_
#define SAGE_CLIENT_CLI_STATUS_LINE_H_

#include <chrono>
#include <string>

namespace sage::cli {

// Draws on stderr, at most ten times a second, and only where that is a terminal; erased on
// destruction. One thread at a time.
class StatusLine {
 public:
  StatusLine();
  ~StatusLine();
  StatusLine(const StatusLine&) = delete;
  StatusLine& operator=(const StatusLine&) = delete;

  // Whether Show() draws anything at all.
  bool shown() const { return shown_; }
  // Cut to the terminal's width.
  void Show(const std::string& text);

 private:
  const bool shown_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_STATUS_LINE_H_
