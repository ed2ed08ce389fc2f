// The subcommands of sagectl. Each adds itself to `app`; the one that runs sets `*exit_code`.
#ifndef SAGE_CLIENT_CLI_COMMANDS_H_
#define SAGE_CLIENT_CLI_COMMANDS_H_

#include "CLI/App.hpp"

namespace sage::cli {

void AddInfoCommand(CLI::App* app, int* exit_code);
void AddAttendCommand(CLI::App* app, int* exit_code);
void AddVerifyCommand(CLI::App* app, int* exit_code);
void AddBenchCommand(CLI::App* app, int* exit_code);
void AddLoadCommand(CLI::App* app, int* exit_code);
void AddMaskCommand(CLI::App* app, int* exit_code);
void AddCompletionCommand(CLI::App* app, int* exit_code);
void AddManCommand(CLI::App* app, int* exit_code);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_COMMANDS_H_
