#include "client/cli/chart/bar_chart.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/chart/axis.h"
#include "client/cli/chart/svg_canvas.h"

namespace sage::cli {
namespace {

constexpr double kWidth = 760;
constexpr double kLeft = 250;   // of the groups' names
constexpr double kRight = 150;  // of the legend
constexpr double kTop = 44;
constexpr double kBottom = 56;
constexpr double kBarHeight = 11;
constexpr double kGroupGap = 14;
constexpr double kMinLabelledWidth = 0.3;
constexpr const char* kGridColour = "#e2e6ea";
constexpr const char* kFrameColour = "#8a949e";

}  // namespace

std::string Draw(const BarChart& chart) {
  const double group_height = kBarHeight * static_cast<double>(chart.bars.size()) + kGroupGap;
  const double bottom = kTop + std::max(group_height * static_cast<double>(chart.groups.size()),
                                        20.0 * static_cast<double>(chart.bars.size()));
  const double right = kWidth - kRight;
  double largest = 0;
  for (const BarGroup& group : chart.groups) {
    for (const double value : group.values) largest = std::max(largest, value);
  }
  const std::vector<Tick> ticks = LinearTicks(largest);
  const double scale = (right - kLeft) / ticks.back().value;

  SvgCanvas canvas(kWidth, bottom + kBottom);
  canvas.Text({16, 26}, chart.title, Anchor::kStart, 15);
  for (const Tick& tick : ticks) {
    const double x = kLeft + tick.value * scale;
    canvas.Line({x, kTop}, {x, bottom}, kGridColour);
    canvas.Text({x, bottom + 18}, tick.label, Anchor::kMiddle);
  }
  canvas.Text({(kLeft + right) / 2, bottom + 42}, chart.x_label, Anchor::kMiddle);
  double y = kTop;
  for (const BarGroup& group : chart.groups) {
    canvas.Text({kLeft - 10, y + group_height / 2 + 4}, group.name, Anchor::kEnd);
    double bar = y + kGroupGap / 2;
    for (std::size_t i = 0; i < group.values.size(); ++i) {
      const double width = group.values[i] * scale;
      canvas.Rect({kLeft, bar + 1}, width, kBarHeight - 2, SeriesColour(i));
      if (width >= kMinLabelledWidth) {
        canvas.Text({kLeft + width + 4, bar + kBarHeight - 2},
                    absl::StrFormat("%.3g", group.values[i]), Anchor::kStart, 9);
      }
      bar += kBarHeight;
    }
    y += group_height;
  }
  canvas.Line({kLeft, kTop}, {kLeft, bottom}, kFrameColour);
  double legend = kTop + 8;
  for (std::size_t i = 0; i < chart.bars.size(); ++i) {
    canvas.Rect({right + 44, legend - 5}, 12, 10, SeriesColour(i));
    canvas.Text({right + 62, legend + 4}, chart.bars[i]);
    legend += 20;
  }
  return std::move(canvas).Finish();
}

}  // namespace sage::cli
