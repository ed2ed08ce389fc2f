// sagectl: attention from the command line.

#include <cstdio>
#include <exception>
#include <iostream>

#include "CLI/CLI.hpp"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"

namespace sage::cli {
namespace {

int Run(int argc, char** argv) {
  CLI::App app("Block-sparse attention on a sage-server.", "sagectl");
  // Not required by the parser, which would hide the name of a subcommand that does not exist.
  app.require_subcommand(0, 1);
  app.set_version_flag("--version", "sagectl " SAGE_VERSION, "Print the version and exit");
  app.footer(
      "Exit status: 0 success; 1 failed request or failed verification; 2 bad usage.\n"
      "The server is --server, else $SAGE_SERVER, else the default of the configuration file, "
      "else\n"
      "127.0.0.1:50051. That file, ~/.config/sagectl/config.toml or $SAGE_CONFIG, gives servers "
      "names:\n"
      "  default = \"lab\"\n"
      "  [server.lab]\n"
      "  target = \"10.0.0.5:50051\"\n"
      "  timeout = 30\n"
      "  ca = \"ca.pem\"\n"
      "  token_file = \"lab.token\"\n"
      "'sagectl COMMAND --help' shows a command's options and examples.");

  int exit_code = kSuccess;
  AddInfoCommand(&app, &exit_code);
  AddAttendCommand(&app, &exit_code);
  AddVerifyCommand(&app, &exit_code);
  AddBenchCommand(&app, &exit_code);
  AddLoadCommand(&app, &exit_code);
  AddMaskCommand(&app, &exit_code);
  AddCompletionCommand(&app, &exit_code);
  AddManCommand(&app, &exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kSuccess : kBadUsage;
  }
  if (app.get_subcommands().empty()) {
    std::cerr << "sagectl: a subcommand is required\n" << app.help();
    return kBadUsage;
  }
  return exit_code;
}

}  // namespace
}  // namespace sage::cli

int main(int argc, char** argv) {
  try {
    return sage::cli::Run(argc, argv);
  } catch (const std::exception& error) {  // out of memory and the like
    std::fprintf(stderr, "sagectl: %s\n", error.what());
    return sage::cli::kFailure;
  }
}
