// Where the marks of an axis are.
#ifndef SAGE_CLIENT_CLI_CHART_AXIS_H_
#define SAGE_CLIENT_CLI_CHART_AXIS_H_

#include <string>
#include <string_view>
#include <vector>

namespace sage::cli {

struct Tick {
  double value = 0;
  std::string label;
};

// Marks at 1, 2 or 5 times a power of ten, about six of them, from 0 to the first one that is at
// least `largest`; a largest value that is not positive counts as 1.
std::vector<Tick> LinearTicks(double largest);

// Marks at the powers of two from `smallest`, which is positive, to `largest`, those included that
// are next outside.
std::vector<Tick> PowerOfTwoTicks(double smallest, double largest);

// Marks at the powers of ten around [smallest, largest], both positive.
std::vector<Tick> PowerOfTenTicks(double smallest, double largest);

// The colour of the i-th thing shown: eight that can be told apart, also by the colour-blind, then
// the same again.
std::string_view SeriesColour(std::size_t i);
inline constexpr std::size_t kSeriesColours = 8;

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_CHART_AXIS_H_
