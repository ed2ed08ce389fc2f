// The few shapes that charts are made of, as an SVG document.
#ifndef SAGE_CLIENT_CLI_CHART_SVG_CANVAS_H_
#define SAGE_CLIENT_CLI_CHART_SVG_CANVAS_H_

#include <string>
#include <string_view>
#include <vector>

namespace sage::cli {

// `text` as it may stand in XML or HTML, between tags and in attributes.
std::string XmlText(const std::string& text);

struct Point {
  double x = 0;
  double y = 0;
};

enum class Anchor { kStart, kMiddle, kEnd };

// Coordinates are pixels from the upper left corner. The document stands for itself, or within an
// HTML page.
class SvgCanvas {
 public:
  // White, with text in a sans-serif face.
  SvgCanvas(double width, double height);

  void Text(Point at, const std::string& text, Anchor anchor = Anchor::kStart, int size = 12);
  void VerticalText(Point at, const std::string& text);  // upwards, centred
  void Line(Point from, Point to, std::string_view colour, double width = 1);
  void Polyline(const std::vector<Point>& points, std::string_view colour, bool dashed);
  void Dot(Point at, std::string_view colour);
  void Rect(Point corner, double width, double height, std::string_view colour);

  // The document; the canvas is done with.
  std::string Finish() &&;

 private:
  std::string svg_;
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_CHART_SVG_CANVAS_H_
