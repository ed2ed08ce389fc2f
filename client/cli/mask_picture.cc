#include "client/cli/mask_picture.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cli/chart/svg_canvas.h"
#include "client/io/mapped_file.h"
#include "kernels/attention.h"

namespace sage::cli {
namespace {

struct Colour {
  int red, green, blue;
};
constexpr Colour kSkipped = {238, 241, 245};
constexpr Colour kListed = {22, 82, 140};
constexpr Colour kLine = {255, 255, 255};
constexpr Colour kFrame = {120, 130, 142};

Colour Mix(double density) {
  const auto channel = [density](int a, int b) {
    return static_cast<int>(std::lround(a + density * (b - a)));
  };
  return {channel(kSkipped.red, kListed.red), channel(kSkipped.green, kListed.green),
          channel(kSkipped.blue, kListed.blue)};
}

std::string Hex(const Colour& colour) {
  return absl::StrFormat("#%02x%02x%02x", colour.red, colour.green, colour.blue);
}

// Cells of a picture: each stands for `factor` x `factor` blocks.
struct Grid {
  Grid(const MaskMap& map, std::int64_t max_columns, std::int64_t max_rows)
      : factor(std::max(
            {std::int64_t{1}, CeilDiv(map.blocks_k, max_columns), CeilDiv(map.tiles_q, max_rows)})),
        rows(CeilDiv(map.tiles_q, factor)),
        columns(CeilDiv(map.blocks_k, factor)) {}

  double Density(const MaskMap& map, std::int64_t row, std::int64_t column) const {
    return map.Density(row * factor, std::min(map.tiles_q, (row + 1) * factor), column * factor,
                       std::min(map.blocks_k, (column + 1) * factor));
  }

  std::int64_t factor;
  std::int64_t rows;
  std::int64_t columns;
};

}  // namespace

double MaskMap::Density(std::int64_t tile_begin, std::int64_t tile_end, std::int64_t block_begin,
                        std::int64_t block_end) const {
  std::int64_t listed = 0;
  for (std::int64_t tile = tile_begin; tile < tile_end; ++tile) {
    for (std::int64_t block = block_begin; block < block_end; ++block) listed += at(tile, block);
  }
  const std::int64_t all = (tile_end - tile_begin) * (block_end - block_begin);
  return all == 0 ? 0 : static_cast<double>(listed) / static_cast<double>(all);
}

std::string TextPicture(const MaskMap& map, int columns, bool unicode) {
  constexpr int kFrameColumns = 2;
  constexpr std::int64_t kMaxRows = 200;
  const Grid grid(map, std::max(1, columns - kFrameColumns), kMaxRows);
  // A character cell is about twice as high as wide, as a block is: one character a block.
  static constexpr std::array<const char*, 5> kShades = {" ", "░", "▒", "▓", "█"};
  static constexpr std::array<const char*, 5> kAsciiShades = {" ", ".", "+", "*", "#"};
  const auto& shades = unicode ? kShades : kAsciiShades;
  const auto repeat = [&](const char* text) {
    std::string line;
    for (std::int64_t i = 0; i < grid.columns; ++i) line += text;
    return line;
  };

  const char* side = unicode ? "│" : "|";
  std::string picture =
      unicode ? absl::StrCat("┌", repeat("─"), "┐\n") : absl::StrCat("+", repeat("-"), "+\n");
  for (std::int64_t row = 0; row < grid.rows; ++row) {
    picture += side;
    for (std::int64_t column = 0; column < grid.columns; ++column) {
      // Blank and full stand for cells that are exactly so.
      const double density = grid.Density(map, row, column);
      const int shade = density <= 0   ? 0
                        : density >= 1 ? 4
                                       : std::clamp(static_cast<int>(1 + density * 3), 1, 3);
      picture += shades[shade];
    }
    picture += side;
    picture += '\n';
  }
  picture +=
      unicode ? absl::StrCat("└", repeat("─"), "┘\n") : absl::StrCat("+", repeat("-"), "+\n");
  if (grid.factor > 1) {
    absl::StrAppend(&picture, "one character is ", grid.factor, " x ", grid.factor, " blocks\n");
  }
  return picture;
}

absl::Status WritePng(const MaskMap& map, const std::string& path) {
  constexpr std::int64_t kMaxSide = 1024;  // of the map, in pixels
  constexpr std::int64_t kMargin = 8;
  constexpr std::int64_t kMinLinedCell = 6;  // narrower cells get no lines between them
  const Grid grid(map, kMaxSide, kMaxSide / 2);
  const std::int64_t cell =
      std::clamp(std::min(kMaxSide / grid.columns, kMaxSide / (2 * grid.rows)), std::int64_t{1},
                 std::int64_t{32});
  const std::int64_t map_width = grid.columns * cell;
  const std::int64_t map_height = grid.rows * 2 * cell;
  const std::int64_t width = map_width + 2 * kMargin;
  const std::int64_t height = map_height + 2 * kMargin;
  const std::int64_t line = cell >= kMinLinedCell ? 1 : 0;

  constexpr std::int64_t kChannels = 3;
  std::vector<std::uint8_t> pixels(width * height * kChannels, 255);
  const auto fill = [&](std::int64_t x, std::int64_t y, std::int64_t w, std::int64_t h,
                        const Colour& colour) {
    for (std::int64_t row = y; row < y + h; ++row) {
      for (std::int64_t column = x; column < x + w; ++column) {
        std::uint8_t* pixel = &pixels[(row * width + column) * kChannels];
        pixel[0] = static_cast<std::uint8_t>(colour.red);
        pixel[1] = static_cast<std::uint8_t>(colour.green);
        pixel[2] = static_cast<std::uint8_t>(colour.blue);
      }
    }
  };
  fill(kMargin - 1, kMargin - 1, map_width + 2, map_height + 2, kFrame);
  fill(kMargin, kMargin, map_width, map_height, kLine);
  for (std::int64_t row = 0; row < grid.rows; ++row) {
    for (std::int64_t column = 0; column < grid.columns; ++column) {
      fill(kMargin + column * cell, kMargin + row * 2 * cell, cell - line, 2 * cell - line,
           Mix(grid.Density(map, row, column)));
    }
  }

  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::vector<std::byte> content(size);
  if (png_image_write_to_memory(&image, content.data(), &size, 0, pixels.data(), 0, nullptr) == 0) {
    return absl::InternalError(absl::StrCat(path, ": ", image.message));
  }
  content.resize(size);
  return WriteFile(path, content);
}

absl::Status WriteSvg(const MaskMap& map, const std::string& title, const std::string& path) {
  // In units of half a block's height, which is a block's width.
  const std::int64_t map_width = map.blocks_k;
  const std::int64_t map_height = 2 * map.tiles_q;
  constexpr double kMapSide = 640;
  const double scale = kMapSide / static_cast<double>(std::max(map_width, map_height));
  const double width = static_cast<double>(map_width) * scale;
  const double height = static_cast<double>(map_height) * scale;
  constexpr double kLeft = 40;
  constexpr double kTop = 44;
  constexpr double kBottom = 36;
  constexpr double kRight = 16;
  constexpr double kMinWidth = 420;  // leaves room for the title

  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
      "font-family=\"sans-serif\" font-size=\"13\" fill=\"#303840\">\n"
      "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
      std::max(kMinWidth, kLeft + width + kRight), kTop + height + kBottom);
  absl::StrAppendFormat(&svg, "<text x=\"%.0f\" y=\"24\" font-size=\"15\">%s</text>\n", kLeft,
                        XmlText(title));
  absl::StrAppendFormat(&svg,
                        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%d key blocks of 64"
                        "</text>\n",
                        kLeft + width / 2, kTop + height + 24, map.blocks_k);
  absl::StrAppendFormat(&svg,
                        "<text transform=\"translate(24 %.1f) rotate(-90)\" "
                        "text-anchor=\"middle\">%d query tiles of 128</text>\n",
                        kTop + height / 2, map.tiles_q);
  absl::StrAppendFormat(
      &svg,
      "<g transform=\"translate(%.0f %.0f) scale(%.5f)\" "
      "shape-rendering=\"crispEdges\">\n"
      "<rect width=\"%d\" height=\"%d\" fill=\"%s\" stroke=\"%s\" "
      "stroke-width=\"1\" vector-effect=\"non-scaling-stroke\"/>\n<path fill=\"%s\" "
      "d=\"",
      kLeft, kTop, scale, map_width, map_height, Hex(kSkipped), Hex(kFrame), Hex(kListed));
  for (std::int64_t tile = 0; tile < map.tiles_q; ++tile) {
    for (std::int64_t block = 0; block < map.blocks_k; ++block) {
      if (!map.at(tile, block)) continue;
      const std::int64_t begin = block;
      while (block < map.blocks_k && map.at(tile, block)) ++block;
      absl::StrAppend(&svg, "M", begin, " ", 2 * tile, "h", block - begin, "v2H", begin, "z");
    }
  }
  svg += "\"/>\n";
  constexpr double kMinLinedScale = 6;  // pixels a block
  if (scale >= kMinLinedScale) {
    absl::StrAppendFormat(&svg,
                          "<path stroke=\"%s\" stroke-width=\"1\" fill=\"none\" "
                          "vector-effect=\"non-scaling-stroke\" d=\"",
                          Hex(kLine));
    for (std::int64_t x = 1; x < map_width; ++x) absl::StrAppend(&svg, "M", x, " 0v", map_height);
    for (std::int64_t y = 2; y < map_height; y += 2)
      absl::StrAppend(&svg, "M0 ", y, "h", map_width);
    svg += "\"/>\n";
  }
  svg += "</g>\n</svg>\n";
  return WriteFile(path, std::as_bytes(std::span(svg)));
}

}  // namespace sage::cli
