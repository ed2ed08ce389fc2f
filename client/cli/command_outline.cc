#include "client/cli/command_outline.h"

#include <string_view>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace sage::cli {
namespace {

std::vector<const CLI::App*> Subcommands(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::vector<std::string> OptionNames(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  return names;
}

// "a|b|c": the words that an option's value may be.
bool IsChoice(const CLI::Option& option) {
  return option.get_type_name().find('|') != std::string::npos;
}

// Cases of the shell function for `app` and all below it. `path` is how they are called, without
// the program's name.
void AppendCases(const CLI::App& app, const std::string& path, std::string* choices,
                 std::string* lists) {
  std::vector<std::string> list;
  for (const CLI::App* command : Subcommands(app)) list.push_back(command->get_name());
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional() && IsChoice(*option)) {
      for (const auto& word : absl::StrSplit(option->get_type_name(), '|')) {
        list.emplace_back(word.data(), word.size());
      }
    }
    for (const std::string& name : OptionNames(*option)) {
      list.push_back(name);
      if (IsChoice(*option)) {
        absl::StrAppend(choices, "    '", path, " ", name, "') values='",
                        absl::StrReplaceAll(option->get_type_name(), {{"|", " "}}), "' ;;\n");
      }
    }
  }
  absl::StrAppend(lists, "    '", path, "') list='", absl::StrJoin(list, " "), "' ;;\n");
  for (const CLI::App* command : Subcommands(app)) {
    AppendCases(*command, absl::StrCat(path, path.empty() ? "" : " ", command->get_name()), choices,
                lists);
  }
}

void AppendNames(const CLI::App& app, std::vector<std::string>* names) {
  for (const CLI::App* command : Subcommands(app)) {
    names->push_back(command->get_name());
    AppendNames(*command, names);
  }
}

// Shell code, for bash and zsh alike, that finds the command which `words_before`, an expansion of
// the words before the current one, name; the words that may come next, `list`; and, after an
// option that takes one of a few, its `values`.
std::string CompletionOutline(const CLI::App& root, const std::string& words_before) {
  std::string choices;
  std::string lists;
  AppendCases(root, "", &choices, &lists);
  std::vector<std::string> names;
  AppendNames(root, &names);
  return absl::StrCat("  local command='' values='' list='' word\n  for word in \"${", words_before,
                      "}\"; do\n    case $word in\n    ", absl::StrJoin(names, "|"),
                      R"() command="${command:+$command }$word" ;;
    *) break ;;
    esac
  done
  case "$command $previous" in
)",
                      choices, "  esac\n  case $command in\n", lists, "  esac\n");
}

// Text of a line of a manual page: backslashes and hyphens as they are, no request by accident.
std::string ManText(const std::string& text) {
  std::string escaped = absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}});
  if (!escaped.empty() && (escaped[0] == '.' || escaped[0] == '\'')) escaped.insert(0, "\\&");
  return escaped;
}

void AppendOption(const CLI::Option& option, std::string* page) {
  std::vector<std::string> names;
  for (const std::string& name : OptionNames(option))
    names.push_back("\\fB" + ManText(name) + "\\fR");
  if (names.empty()) names.push_back("\\fI" + ManText(option.get_name()) + "\\fR");
  absl::StrAppend(page, ".TP\n", absl::StrJoin(names, ", "));
  if (!option.get_type_name().empty() && !OptionNames(option).empty()) {
    absl::StrAppend(page, " \\fI", ManText(option.get_type_name()), "\\fR");
  }
  absl::StrAppend(page, "\n", ManText(option.get_description()), "\n");
}

}  // namespace

std::string BashCompletion(const CLI::App& root) {
  const std::string outline = CompletionOutline(root, "COMP_WORDS[@]:1:COMP_CWORD-1");
  return absl::StrCat(R"(# bash completion of sagectl: source <(sagectl completion bash)
_sagectl() {
  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
)",
                      outline, R"(  if [[ -n $values ]]; then
    COMPREPLY=($(compgen -W "$values" -- "$current"))
  elif [[ $current == -* || -z $command || $previous == "${command##* }" ]]; then
    COMPREPLY=($(compgen -W "$list" -- "$current"))
  else
    COMPREPLY=()
  fi
}
complete -o default -F _sagectl sagectl
)");
}

std::string ZshCompletion(const CLI::App& root) {
  const std::string outline = CompletionOutline(root, "(@)words[2,CURRENT-1]");
  return absl::StrCat(R"(#compdef sagectl
# zsh completion of sagectl: as the file _sagectl in a folder of $fpath, or source <(sagectl completion zsh)
_sagectl() {
  local current=$words[CURRENT] previous=$words[CURRENT-1]
)",
                      outline, R"(  if [[ -n $values ]]; then
    compadd -- ${=values}
  elif [[ $current == -* || -z $command || $previous == "${command##* }" ]]; then
    compadd -- ${=list}
  else
    _files
  fi
}
if [[ $funcstack[1] == _sagectl ]]; then # loaded from $fpath by the first completion
  _sagectl "$@"
else
  (($+functions[compdef])) || { autoload -Uz compinit && compinit; }
  compdef _sagectl sagectl
fi
)");
}

std::string ManPage(const CLI::App& command, const std::string& path) {
  const std::string name = absl::StrReplaceAll(path, {{" ", "-"}});
  std::string page = absl::StrCat(
      ".TH ", absl::AsciiStrToUpper(name), " 1 \"\" \"sage-serve\"\n.SH NAME\n", ManText(name),
      " \\- ", ManText(command.get_description()), "\n.SH SYNOPSIS\n.B ", path, "\n");
  const std::vector<const CLI::App*> subcommands = Subcommands(command);
  page += subcommands.empty() ? "[\\fIOPTIONS\\fR]\n" : "\\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n";
  if (!subcommands.empty()) {
    page += ".SH COMMANDS\n";
    for (const CLI::App* subcommand : subcommands) {
      absl::StrAppend(&page, ".TP\n\\fB", ManText(subcommand->get_name()), "\\fR\n",
                      ManText(subcommand->get_description()), "\n");
    }
  }
  for (const std::string& group : command.get_groups()) {
    const auto in_group = command.get_options(
        [&group](const CLI::Option* option) { return option->get_group() == group; });
    if (group.empty() || in_group.empty()) continue;
    absl::StrAppend(&page, ".SH ", ManText(absl::AsciiStrToUpper(group)), "\n");
    for (const CLI::Option* option : in_group) AppendOption(*option, &page);
  }
  page += ".SH NOTES\n.nf\n";
  for (const auto& line : absl::StrSplit(command.get_footer(), '\n')) {
    absl::StrAppend(&page, ManText(std::string(line)), "\n");
  }
  return page + ".fi\n";
}

}  // namespace sage::cli
