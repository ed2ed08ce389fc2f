#include "client/cli/status_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstddef>
#include <iostream>

namespace sage::cli {
namespace {

constexpr std::chrono::milliseconds kRedrawInterval{100};

std::size_t TerminalWidth() {
  winsize size{};
  constexpr std::size_t kUsual = 80;
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : kUsual;
}

}  // namespace

StatusLine::StatusLine() : shown_(isatty(STDERR_FILENO) != 0) {}

StatusLine::~StatusLine() {
  if (drawn_) std::cerr << "\r\x1b[K" << std::flush;  // erase the line
}

void StatusLine::Show(const std::string& text) {
  const auto now = std::chrono::steady_clock::now();
  if (!shown_ || (drawn_ && now - last_ < kRedrawInterval)) return;
  drawn_ = true;
  last_ = now;
  std::cerr << '\r' << text.substr(0, TerminalWidth() - 1) << "\x1b[K" << std::flush;
}

}  // namespace sage::cli
