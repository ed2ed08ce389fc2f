#include "client/cli/terminal.h"

#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace sage::cli {

bool ColoursOn(int descriptor) {
  const char* refused = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return isatty(descriptor) != 0 && (refused == nullptr || *refused == '\0') &&
         terminal != nullptr && std::string_view(terminal) != "dumb";
}

std::string Paint(const std::string& text, Tone tone, bool on) {
  if (!on || tone == Tone::kPlain) return text;
  return absl::StrCat(tone == Tone::kGood ? "\x1b[32m" : "\x1b[1;31m", text, "\x1b[0m");
}

}  // namespace sage::cli
