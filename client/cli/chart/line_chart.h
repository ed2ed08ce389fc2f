// Lines over a common axis.
#ifndef SAGE_CLIENT_CLI_CHART_LINE_CHART_H_
#define SAGE_CLIENT_CLI_CHART_LINE_CHART_H_

#include <string>
#include <vector>

#include "client/cli/chart/axis.h"
#include "client/cli/chart/svg_canvas.h"

namespace sage::cli {

struct Series {
  std::string name;
  std::vector<Point> points;  // by increasing x
};

struct LineChart {
  std::string title;
  std::string x_label;
  std::string y_label;
  // The first and the last mark bound the axis.
  std::vector<Tick> x_ticks;
  std::vector<Tick> y_ticks;
  // Logarithmic axes; every value and mark must then be positive.
  bool x_log = false;
  bool y_log = false;
  std::vector<Series> series;
};

// An SVG document, 760 by 420, higher where the legend needs it. Dots mark the points where there
// are few.
std::string Draw(const LineChart& chart);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_CHART_LINE_CHART_H_
