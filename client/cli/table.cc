#include "client/cli/table.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <iostream>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "client/cli/terminal.h"

namespace sage::cli {

namespace {

// Verdicts stand out.
Tone ToneOf(const std::string& cell) {
  if (cell == "FAILED" || cell == "missed" || absl::EndsWith(cell, " slower")) return Tone::kBad;
  if (cell == "ok" || cell == "held" || absl::EndsWith(cell, " faster")) return Tone::kGood;
  return Tone::kPlain;
}

}  // namespace

void PrintTable(const std::vector<std::vector<std::string>>& rows, std::ostream& out) {
  const bool colours = &out == &std::cout && ColoursOn(STDOUT_FILENO);
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].size(), ' ');
      if (i == 0) {
        out << row[i] << (row.size() > 1 ? padding : "");
      } else {
        out << "  " << padding
            << Paint(row[i], &row == rows.data() ? Tone::kPlain : ToneOf(row[i]), colours);
      }
    }
    out << '\n';
  }
}

std::string ByteText(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < std::size(kUnits)) {
    bytes /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.*f %s", unit == 0 ? 0 : 1, bytes, kUnits[unit]);
}

}  // namespace sage::cli
