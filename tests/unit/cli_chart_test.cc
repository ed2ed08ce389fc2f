// Axes and charts of sagectl.
#include <string>
#include <vector>

#include "client/cli/chart/axis.h"
#include "client/cli/chart/bar_chart.h"
#include "client/cli/chart/line_chart.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/xml_check.h"

namespace sage::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsWellFormedXml;

std::vector<std::string> Labels(const std::vector<Tick>& ticks) {
  std::vector<std::string> labels;
  for (const Tick& tick : ticks) labels.push_back(tick.label);
  return labels;
}

TEST(AxisTest, MarksAreRoundAndCoverTheLargestValue) {
  EXPECT_THAT(Labels(LinearTicks(2.6)), ElementsAre("0", "0.5", "1", "1.5", "2", "2.5", "3"));
  EXPECT_THAT(Labels(LinearTicks(6)), ElementsAre("0", "1", "2", "3", "4", "5", "6"));
  EXPECT_THAT(Labels(LinearTicks(130)), ElementsAre("0", "50", "100", "150"));
  EXPECT_THAT(Labels(LinearTicks(0)), ElementsAre("0", "0.2", "0.4", "0.6", "0.8", "1"));
  for (double largest = 1e-9; largest < 1e9; largest *= 1.37) {
    const std::vector<Tick> ticks = LinearTicks(largest);
    EXPECT_GE(ticks.back().value, largest * (1 - 1e-8));
    EXPECT_LE(ticks.size(), 8U) << largest;
    EXPECT_GE(ticks.size(), 3U) << largest;
  }
}

TEST(AxisTest, LogarithmicMarksCoverTheRange) {
  EXPECT_THAT(Labels(PowerOfTwoTicks(1024, 4096)), ElementsAre("1024", "2048", "4096"));
  EXPECT_THAT(Labels(PowerOfTwoTicks(1000, 3000)), ElementsAre("512", "1024", "2048", "4096"));
  EXPECT_THAT(Labels(PowerOfTwoTicks(512, 512)), ElementsAre("512"));
  EXPECT_THAT(Labels(PowerOfTenTicks(0.2, 30)), ElementsAre("0.1", "1", "10", "100"));
}

TEST(LineChartTest, DrawsEverySeriesBetweenTheEndsOfTheAxes) {
  LineChart chart;
  chart.title = "a < b & \"c\"";
  chart.x_ticks = PowerOfTwoTicks(512, 2048);
  chart.y_ticks = LinearTicks(2);
  chart.x_log = true;
  chart.series = {{"full", {{512, 0}, {1024, 1}, {2048, 2}}}, {"half", {{512, 2}}}};
  const std::string svg = Draw(chart);
  EXPECT_TRUE(IsWellFormedXml(svg));
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; &quot;c&quot;"));
  // The plot is 72 to 570 wide and 44 to 364 high; 1024 is in the middle of a logarithmic axis.
  EXPECT_THAT(svg, HasSubstr("points=\"72.0,364.0 321.0,204.0 570.0,44.0 \""));
  EXPECT_THAT(svg, HasSubstr(">half</text>"));
}

TEST(LineChartTest, DrawsASingleValueInTheMiddle) {
  LineChart chart;
  chart.x_ticks = PowerOfTwoTicks(512, 512);
  chart.y_ticks = LinearTicks(1);
  chart.x_log = true;
  chart.series = {{"only", {{512, 1}}}};
  EXPECT_THAT(Draw(chart), HasSubstr("points=\"321.0,44.0 \""));
}

TEST(BarChartTest, DrawsBarsToScale) {
  const BarChart chart = {.title = "stages",
                          .x_label = "ms",
                          .bars = {"recv", "kernel"},
                          .groups = {{"first", {50, 100}}, {"second", {0, 25}}}};
  const std::string svg = Draw(chart);
  EXPECT_TRUE(IsWellFormedXml(svg));
  EXPECT_THAT(svg, HasSubstr("width=\"360.0\""));  // 100 of 100, 250 to 610 pixels
  EXPECT_THAT(svg, HasSubstr("width=\"180.0\""));
  EXPECT_THAT(svg, HasSubstr("width=\"90.0\""));
}

}  // namespace
}  // namespace sage::cli
