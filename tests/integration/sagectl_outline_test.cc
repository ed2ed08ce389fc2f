// What sagectl says of itself: help, completions and manual pages.
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/sagectl_fixture.h"

namespace sage::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST_F(SagectlTest, RefusesWhatIsNoCommand) {
  ExpectRefused({
      {{}, "subcommand"},
      {{"nonsense"}, "nonsense"},
      {{"info", "--server", "127.0.0.1:99999"}, "no server '127.0.0.1:99999': ports are 1 to"},
      {{"info", "--timeout", "0"}, "--timeout: got 0, allowed above 0"},
      {{"completion", "fish"}, "shell: got fish, allowed bash|zsh"},
  });
  EXPECT_THAT(Run({"--version"}).out, StartsWith("sagectl "));
  EXPECT_EQ(Run({"--help"}).exit_code, 0);
  EXPECT_THAT(Run({"attend", "--help"}).out, HasSubstr("Examples:"));
}

TEST_F(SagectlTest, CompletesCommandsOptionsAndValues) {
  const Outcome script = Run({"completion", "bash"});
  ASSERT_EQ(script.exit_code, 0);
  std::ofstream(Path("completion")) << script.out;
  const auto completed = [&](const std::string& words) {
    const Outcome outcome =
        RunWith({},
                {"-c", "source " + Path("completion") + "; COMP_WORDS=(" + words +
                           "); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _sagectl; "
                           "echo \"${COMPREPLY[*]}\""},
                "/bin/bash");
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  };
  EXPECT_EQ(completed("sagectl be"), "bench\n");
  EXPECT_EQ(completed("sagectl mask con"), "convert\n");
  EXPECT_EQ(completed("sagectl bench --pre"), "--precision\n");
  EXPECT_EQ(completed("sagectl bench --precision qk"), "qk_int8_pv_fp16 qk_int8_pv_fp8\n");
  EXPECT_EQ(completed("sagectl load --seqlen 5 --arrivals ''"), "poisson constant\n");
  EXPECT_EQ(completed("sagectl completion z"), "zsh\n");
  EXPECT_EQ(completed("sagectl attend --q fi"), "\n");  // file names are left to bash
  EXPECT_EQ(Run({"completion", "fish"}).exit_code, 2);
}

// zsh itself drops what does not begin as the current word does.
TEST_F(SagectlTest, CompletesInZsh) {
  if (!std::filesystem::exists("/bin/zsh")) GTEST_SKIP() << "no zsh on this machine";
  const Outcome script = Run({"completion", "zsh"});
  ASSERT_EQ(script.exit_code, 0);
  EXPECT_THAT(script.out, StartsWith("#compdef sagectl\n"));  // or zsh would not load the file
  std::ofstream(Path("_sagectl")) << script.out;
  const std::string stand_ins =
      "compdef() { }; compadd() { shift; print -r -- $@ }; _files() { print files }; ";
  const auto completed = [&](const std::string& load, const std::string& words) {
    const Outcome outcome = RunWith(
        {}, {"-f", "-c", stand_ins + load + "; words=(" + words + "); CURRENT=$#words; _sagectl"},
        "/bin/zsh");
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  };
  for (const std::string& load :
       {"source " + Path("_sagectl"), "fpath=(" + Path("") + " $fpath); autoload -Uz _sagectl"}) {
    EXPECT_THAT(completed(load, "sagectl be"), StartsWith("info attend verify bench load mask"));
    EXPECT_THAT(completed(load, "sagectl mask con"), StartsWith("make convert show"));
    EXPECT_THAT(completed(load, "sagectl bench --pre"), HasSubstr(" --precision "));
    EXPECT_EQ(completed(load, "sagectl bench --precision qk"),
              "qk_int8_pv_fp16 qk_int8_pv_fp8 fp16\n");
    EXPECT_EQ(completed(load, "sagectl load --seqlen 5 --arrivals ''"), "poisson constant\n");
    EXPECT_EQ(completed(load, "sagectl attend --q fi"), "files\n");
  }
}

TEST_F(SagectlTest, PrintsManualPages) {
  const std::string page = Run({"man", "bench"}).out;
  EXPECT_THAT(page, AllOf(HasSubstr(".TH SAGECTL-BENCH 1"), HasSubstr("\\fB\\-\\-sparsity\\fR"),
                          HasSubstr(".SH GRID"), HasSubstr("Examples:")));
  EXPECT_THAT(Run({"man", "mask", "make"}).out, HasSubstr(".TH SAGECTL-MASK-MAKE 1"));
  EXPECT_THAT(Run({"man"}).out, AllOf(HasSubstr(".SH COMMANDS"), HasSubstr("load")));
  const Outcome unknown = Run({"man", "nonsense"});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("there is no command 'sagectl nonsense'"));
}

// Names of options at the head of their descriptions, which lines that begin so hold.
std::set<std::string> OptionsIn(const std::string& text, const std::string& line_begin) {
  const std::vector<std::string> lines =
      absl::StrSplit(absl::StrReplaceAll(text, {{"\\fB", ""}, {"\\fR", ""}, {"\\-", "-"}}), '\n');
  std::set<std::string> names;
  for (const std::string& line : lines) {
    if (!absl::StartsWith(line, line_begin + "-")) continue;
    const std::size_t begin = line.find("--");
    const std::size_t end = line.find_first_not_of("abcdefghijklmnopqrstuvwxyz-", begin);
    names.insert(line.substr(begin, end - begin));
  }
  return names;
}

TEST_F(SagectlTest, ManualPagesHaveTheOptionsOfHelp) {
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{},
                                             {"info"},
                                             {"attend"},
                                             {"verify"},
                                             {"bench"},
                                             {"load"},
                                             {"mask", "make"},
                                             {"mask", "convert"},
                                             {"mask", "show"},
                                             {"completion"},
                                             {"man"}}) {
    std::vector<std::string> help = command;
    help.emplace_back("--help");
    std::vector<std::string> page = command;
    page.insert(page.begin(), "man");
    const std::set<std::string> options = OptionsIn(Run(help).out, "  ");
    EXPECT_THAT(options, Contains("--help"));
    EXPECT_EQ(OptionsIn(Run(page).out, ""), options) << page.back();
  }
}

}  // namespace
}  // namespace sage::testing
