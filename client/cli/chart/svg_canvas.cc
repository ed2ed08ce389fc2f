#include "client/cli/chart/svg_canvas.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace sage::cli {
namespace {

const char* AnchorName(Anchor anchor) {
  return anchor == Anchor::kStart ? "start" : anchor == Anchor::kMiddle ? "middle" : "end";
}

}  // namespace

std::string XmlText(const std::string& text) {
  return absl::StrReplaceAll(
      text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

SvgCanvas::SvgCanvas(double width, double height)
    : svg_(absl::StrFormat(
          "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
          "viewBox=\"0 0 %.0f %.0f\" font-family=\"sans-serif\" fill=\"#303840\">\n"
          "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
          width, height, width, height)) {}

void SvgCanvas::Text(Point at, const std::string& text, Anchor anchor, int size) {
  absl::StrAppendFormat(
      &svg_, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%d\">%s</text>\n", at.x,
      at.y, AnchorName(anchor), size, XmlText(text));
}

void SvgCanvas::VerticalText(Point at, const std::string& text) {
  absl::StrAppendFormat(&svg_,
                        "<text transform=\"translate(%.1f %.1f) rotate(-90)\" "
                        "text-anchor=\"middle\" font-size=\"12\">%s</text>\n",
                        at.x, at.y, XmlText(text));
}

void SvgCanvas::Line(Point from, Point to, std::string_view colour, double width) {
  absl::StrAppendFormat(&svg_,
                        "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
                        "stroke-width=\"%.1f\"/>\n",
                        from.x, from.y, to.x, to.y, colour, width);
}

void SvgCanvas::Polyline(const std::vector<Point>& points, std::string_view colour, bool dashed) {
  std::string list;
  for (const Point& point : points) absl::StrAppendFormat(&list, "%.1f,%.1f ", point.x, point.y);
  absl::StrAppendFormat(&svg_,
                        "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\" "
                        "stroke-linejoin=\"round\"%s/>\n",
                        list, colour, dashed ? " stroke-dasharray=\"6 4\"" : "");
}

void SvgCanvas::Dot(Point at, std::string_view colour) {
  absl::StrAppendFormat(&svg_, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"/>\n", at.x,
                        at.y, colour);
}

void SvgCanvas::Rect(Point corner, double width, double height, std::string_view colour) {
  absl::StrAppendFormat(
      &svg_, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", corner.x,
      corner.y, width, height, colour);
}

std::string SvgCanvas::Finish() && { return std::move(svg_) + "</svg>\n"; }

}  // namespace sage::cli
