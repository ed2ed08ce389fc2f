// Colours, where a person looks.
#ifndef SAGE_CLIENT_CLI_TERMINAL_H_
#define SAGE_CLIENT_CLI_TERMINAL_H_

#include <string>

namespace sage::cli {

enum class Tone { kPlain, kGood, kBad };

// Whether what is written to the file descriptor may be coloured: it is a terminal, not a dumb one,
// and $NO_COLOR is not set.
bool ColoursOn(int descriptor);

// `text` in the tone's colour; as it is where `on` is not set.
std::string Paint(const std::string& text, Tone tone, bool on);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_TERMINAL_H_
