#include "client/cli/progress_bar.h"

#include <unistd.h>

#include <iostream>
#include <string>

namespace sage::cli {

ProgressBar::ProgressBar() : shown_(isatty(STDERR_FILENO) != 0) {}

ProgressBar::~ProgressBar() {
  if (last_percent_ >= 0) std::cerr << "\r\x1b[K" << std::flush;  // erase the line
}

void ProgressBar::Update(std::int64_t done, std::int64_t total) {
  const int percent = static_cast<int>(100 * done / total);
  if (!shown_ || percent == last_percent_) return;
  last_percent_ = percent;
  constexpr int kWidth = 40;
  const int filled = percent * kWidth / 100;
  std::cerr << "\r[" << std::string(filled, '#') << std::string(kWidth - filled, '.') << "] "
            << percent << "%  " << done << " of " << total << " units" << std::flush;
}

}  // namespace sage::cli
