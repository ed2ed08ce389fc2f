// The subcommands and options of sagectl as text for shells and for man: made from the same
// descriptions as --help, so that they cannot disagree with it.
#ifndef SAGE_CLIENT_CLI_COMMAND_OUTLINE_H_
#define SAGE_CLIENT_CLI_COMMAND_OUTLINE_H_

#include <string>

#include "CLI/App.hpp"

namespace sage::cli {

// A script for bash, to be sourced: completes subcommands, options, values that are one of a few
// words, and file names elsewhere.
std::string BashCompletion(const CLI::App& root);
// The same for zsh, to be sourced, or to be found in $fpath as _sagectl.
std::string ZshCompletion(const CLI::App& root);

// A manual page of section 1, in the man macros. `path` names the command: "sagectl bench".
std::string ManPage(const CLI::App& command, const std::string& path);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_COMMAND_OUTLINE_H_
