#include "client/cli/chart/axis.h"

#include <array>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_format.h"

namespace sage::cli {
namespace {

std::string Label(double value) { return absl::StrFormat("%.6g", value); }

std::vector<Tick> PowerTicks(double base, double smallest, double largest) {
  const double log_base = std::log(base);
  const auto first = static_cast<int>(std::floor(std::log(smallest) / log_base + 1e-9));
  const auto last = static_cast<int>(std::ceil(std::log(largest) / log_base - 1e-9));
  std::vector<Tick> ticks;
  for (int exponent = first; exponent <= last; ++exponent) {
    const double value = std::pow(base, exponent);
    ticks.push_back({value, Label(value)});
  }
  return ticks;
}

}  // namespace

std::vector<Tick> LinearTicks(double largest) {
  if (!(largest > 0)) largest = 1;
  constexpr double kIntervals = 6;
  const double power = std::pow(10, std::floor(std::log10(largest / kIntervals)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (largest / (factor * power) <= kIntervals) {
      step = factor * power;
      break;
    }
  }
  const auto count = static_cast<int>(std::ceil(largest / step - 1e-9));
  std::vector<Tick> ticks;
  for (int i = 0; i <= count; ++i) ticks.push_back({i * step, Label(i * step)});
  return ticks;
}

std::vector<Tick> PowerOfTwoTicks(double smallest, double largest) {
  return PowerTicks(2, smallest, largest);
}

std::vector<Tick> PowerOfTenTicks(double smallest, double largest) {
  return PowerTicks(10, smallest, largest);
}

std::string_view SeriesColour(std::size_t i) {
  // Okabe and Ito's palette, yellow replaced: too light on white.
  static constexpr std::array<std::string_view, kSeriesColours> kColours = {
      "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5e4fa2", "#303840"};
  return kColours[i % kColours.size()];
}

}  // namespace sage::cli
