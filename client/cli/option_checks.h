// Checks of the values of options; a refusal says what came and what is allowed.
#ifndef SAGE_CLIENT_CLI_OPTION_CHECKS_H_
#define SAGE_CLIENT_CLI_OPTION_CHECKS_H_

#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"

namespace sage::cli {

// Text of a refusal; CLI11 puts the option's name in front.
inline std::string Refusal(const std::string& got, const std::string& allowed) {
  return absl::StrCat("got ", got, ", allowed ", allowed);
}

// A number for which `allows` holds; `allowed` says so in words, also in --help.
template <typename Allows>
CLI::Validator NumberThat(Allows allows, const std::string& allowed) {
  return CLI::Validator(
      [allows, allowed](std::string& text) {
        double number = 0;
        const bool good = CLI::detail::lexical_cast(text, number) && allows(number);
        return good ? std::string() : Refusal(text, allowed);
      },
      allowed);
}

inline CLI::Validator AboveZero() {
  return NumberThat([](double number) { return number > 0; }, "above 0");
}

inline CLI::Validator ZeroAndMore() {
  return NumberThat([](double number) { return number >= 0; }, "0 and more");
}

inline CLI::Validator Between(const std::string& least, const std::string& most) {
  return NumberThat([low = std::stod(least), high = std::stod(most)](
                        double number) { return low <= number && number <= high; },
                    least + " to " + most);
}

// Makes the option take words, any case, that stand for values.
template <typename Value>
void TakeWords(CLI::Option* option, const std::vector<std::pair<std::string, Value>>& words) {
  std::map<std::string, std::string> values;
  std::string type;
  for (const auto& [word, value] : words) {
    // CLI11 reads an enumeration by its number.
    if constexpr (std::is_enum_v<Value>) {
      values.emplace(CLI::detail::to_lower(word),
                     std::to_string(static_cast<std::underlying_type_t<Value>>(value)));
    } else {
      values.emplace(CLI::detail::to_lower(word), value);
    }
    absl::StrAppend(&type, type.empty() ? "" : "|", word);
  }
  option
      ->transform(CLI::Validator(
          [values, type](std::string& text) {
            const auto found = values.find(CLI::detail::to_lower(text));
            if (found == values.end()) return Refusal(text, type);
            text = found->second;
            return std::string();
          },
          ""))
      ->type_name(type);
}

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_OPTION_CHECKS_H_
