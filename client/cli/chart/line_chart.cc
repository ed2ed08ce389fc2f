#include "client/cli/chart/line_chart.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace sage::cli {
namespace {

constexpr double kWidth = 760;
constexpr double kHeight = 420;
constexpr double kLeft = 72;
constexpr double kRight = 190;  // of the legend
constexpr double kTop = 44;
constexpr double kBottom = 56;
constexpr std::size_t kDottedPoints = 24;
constexpr const char* kGridColour = "#e2e6ea";
constexpr const char* kFrameColour = "#8a949e";

// From values to pixels between `begin` and `end`.
class Scale {
 public:
  Scale(const std::vector<Tick>& ticks, bool log, double begin, double end)
      : log_(log),
        first_(At(ticks.front().value)),
        last_(At(ticks.back().value)),
        begin_(begin),
        end_(end) {}

  double operator()(double value) const {
    if (last_ == first_) return (begin_ + end_) / 2;
    return begin_ + (At(value) - first_) / (last_ - first_) * (end_ - begin_);
  }

 private:
  double At(double value) const { return log_ ? std::log(value) : value; }

  bool log_;
  double first_;
  double last_;
  double begin_;
  double end_;
};

}  // namespace

std::string Draw(const LineChart& chart) {
  const double right = kWidth - kRight;
  const double bottom = kHeight - kBottom;
  const Scale x(chart.x_ticks, chart.x_log, kLeft, right);
  const Scale y(chart.y_ticks, chart.y_log, bottom, kTop);
  constexpr double kLegendLine = 20;
  const double legend_height = kLegendLine * static_cast<double>(chart.series.size());
  SvgCanvas canvas(kWidth, std::max(kHeight, kTop + legend_height + kLegendLine));
  canvas.Text({kLeft, 26}, chart.title, Anchor::kStart, 15);
  for (const Tick& tick : chart.y_ticks) {
    canvas.Line({kLeft, y(tick.value)}, {right, y(tick.value)}, kGridColour);
    canvas.Text({kLeft - 8, y(tick.value) + 4}, tick.label, Anchor::kEnd);
  }
  for (const Tick& tick : chart.x_ticks) {
    canvas.Line({x(tick.value), kTop}, {x(tick.value), bottom}, kGridColour);
    canvas.Text({x(tick.value), bottom + 18}, tick.label, Anchor::kMiddle);
  }
  canvas.Line({kLeft, bottom}, {right, bottom}, kFrameColour);
  canvas.Line({kLeft, kTop}, {kLeft, bottom}, kFrameColour);
  canvas.Text({(kLeft + right) / 2, bottom + 42}, chart.x_label, Anchor::kMiddle);
  canvas.VerticalText({20, (kTop + bottom) / 2}, chart.y_label);

  double legend = kTop + 8;
  for (std::size_t i = 0; i < chart.series.size(); ++i) {
    const Series& series = chart.series[i];
    const std::string_view colour = SeriesColour(i);
    const bool dashed = i / kSeriesColours % 2 == 1;
    std::vector<Point> pixels;
    for (const Point& point : series.points) pixels.push_back({x(point.x), y(point.y)});
    canvas.Polyline(pixels, colour, dashed);
    if (pixels.size() <= kDottedPoints) {
      for (const Point& pixel : pixels) canvas.Dot(pixel, colour);
    }
    canvas.Polyline({{right + 14, legend}, {right + 38, legend}}, colour, dashed);
    canvas.Text({right + 44, legend + 4}, series.name);
    legend += kLegendLine;
  }
  return std::move(canvas).Finish();
}

}  // namespace sage::cli
