// sagectl: attention from the command line.

#include <exception>
#include <iostream>

#include "CLI/CLI.hpp"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"

int main(int argc, char** argv) {
  CLI::App app("Block-sparse attention on a sage-server.", "sagectl");
  // Not required by the parser, which would hide the name of a subcommand that does not exist.
  app.require_subcommand(0, 1);
  app.footer(
      "Exit status: 0 success; 1 failed request or failed verification; 2 bad usage.\n"
      "The server is --server, else $SAGE_SERVER, else 127.0.0.1:50051.\n"
      "'sagectl COMMAND --help' shows a command's options and examples.");

  int exit_code = sage::cli::kSuccess;
  sage::cli::AddInfoCommand(&app, &exit_code);
  sage::cli::AddAttendCommand(&app, &exit_code);
  sage::cli::AddVerifyCommand(&app, &exit_code);
  sage::cli::AddMaskCommand(&app, &exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? sage::cli::kSuccess : sage::cli::kBadUsage;
  } catch (const std::exception& error) {  // out of memory and the like
    std::cerr << "sagectl: " << error.what() << '\n';
    return sage::cli::kFailure;
  }
  if (app.get_subcommands().empty()) {
    std::cerr << "sagectl: a subcommand is required\n" << app.help();
    return sage::cli::kBadUsage;
  }
  return exit_code;
}
