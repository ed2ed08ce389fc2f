#include "client/cli/progress_bar.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_format.h"

namespace sage::cli {
namespace {

std::string TimeLeft(double seconds) {
  const auto whole = std::llround(seconds);
  if (whole >= 3600)
    return absl::StrFormat("%d:%02d:%02d left", whole / 3600, whole / 60 % 60, whole % 60);
  return absl::StrFormat("%d:%02d left", whole / 60, whole % 60);
}

}  // namespace

void ProgressBar::Update(double fraction, const std::string& what) {
  constexpr int kWidth = 32;
  const auto filled = static_cast<std::size_t>(kWidth * std::clamp(fraction, 0.0, 1.0));
  std::string text = absl::StrFormat("[%s%s] %3.0f%%  %s", std::string(filled, '#'),
                                     std::string(kWidth - filled, '.'), 100 * fraction, what);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin_;
  if (fraction > 0) {
    text += "  " + TimeLeft(elapsed.count() * (1 - fraction) / fraction);
  }
  line_.Show(text);
}

std::function<void(std::int64_t, std::int64_t)> ProgressBar::UnitProgress() {
  return [this](std::int64_t done, std::int64_t total) {
    Update(static_cast<double>(done) / static_cast<double>(total),
           absl::StrFormat("%d of %d units", done, total));
  };
}

}  // namespace sage::cli
