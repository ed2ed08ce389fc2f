// sagectl completion and sagectl man: sagectl's own outline for shells and for man.

#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "client/cli/command_outline.h"
#include "client/cli/commands.h"
#include "client/cli/exit_code.h"
#include "client/cli/option_checks.h"

namespace sage::cli {
namespace {

int PrintManPage(const CLI::App& root, const std::vector<std::string>& names) {
  const CLI::App* command = &root;
  std::string path = root.get_name();
  for (const std::string& name : names) {
    absl::StrAppend(&path, " ", name);
    const auto found = command->get_subcommands(
        [&name](const CLI::App* candidate) { return candidate->get_name() == name; });
    if (found.empty()) {
      return RefuseUsage(
          absl::InvalidArgumentError(absl::StrCat("there is no command '", path, "'")));
    }
    command = found.front();
  }
  std::cout << ManPage(*command, path);
  return kSuccess;
}

}  // namespace

void AddCompletionCommand(CLI::App* app, int* /*exit_code*/) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app->add_subcommand("completion", "Print a completion script for a shell");
  CLI::Option* option = command->add_option("shell", *shell, "bash or zsh")->required();
  TakeWords<std::string>(option, {{"bash", "bash"}, {"zsh", "zsh"}});
  command->footer(
      "An installed sagectl has its completions already. Otherwise put one of these into the\n"
      "shell's startup file:\n"
      "  source <(sagectl completion bash)\n"
      "  source <(sagectl completion zsh)");
  command->callback([app, shell] {
    std::cout << (*shell == "bash" ? BashCompletion(*app) : ZshCompletion(*app));
  });
}

void AddManCommand(CLI::App* app, int* exit_code) {
  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app->add_subcommand("man", "Print a manual page");
  command->add_option("command", *names, "Whose page: bench, mask make; none: sagectl's own");
  command->footer(
      "Examples:\n"
      "  sagectl man bench | man -l -\n"
      "  sagectl man load > /usr/local/share/man/man1/sagectl-load.1");
  command->callback([app, names, exit_code] { *exit_code = PrintManPage(*app, *names); });
}

}  // namespace sage::cli
