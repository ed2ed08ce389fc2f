// Horizontal bars in groups.
#ifndef SAGE_CLIENT_CLI_CHART_BAR_CHART_H_
#define SAGE_CLIENT_CLI_CHART_BAR_CHART_H_

#include <string>
#include <vector>

namespace sage::cli {

struct BarGroup {
  std::string name;
  std::vector<double> values;  // one for each of BarChart::bars, not negative
};

struct BarChart {
  std::string title;
  std::string x_label;
  std::vector<std::string> bars;  // what the bars of each group are, in order
  std::vector<BarGroup> groups;
};

// An SVG document, 760 wide, as high as it takes; each bar that can be seen has its value beside
// it.
std::string Draw(const BarChart& chart);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_CHART_BAR_CHART_H_
