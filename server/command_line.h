// The command line and configuration file of sage-server.
#ifndef SAGE_SERVER_COMMAND_LINE_H_
#define SAGE_SERVER_COMMAND_LINE_H_

#include <optional>
#include <string>

#include "server/options.h"

namespace sage::server {

// The options that the arguments, and the file that --config names, ask for; flags win over the
// file. Where the program should end instead, prints why (--help, --version to stdout, errors to
// stderr) and gives its exit status: 0, or 2 for bad usage.
struct ParsedCommandLine {
  ServerOptions options;
  std::optional<int> exit_status;
  std::string health_check;  // the server whose health to ask for, instead of serving; or empty
};
ParsedCommandLine ParseCommandLine(int argc, char** argv);

}  // namespace sage::server

#endif  // SAGE_SERVER_COMMAND_LINE_H_
