#include "client/cli/report_file.h"

#include <algorithm>
#include <charconv>
#include <iostream>
#include <span>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/io/mapped_file.h"

namespace sage::cli {

void AddReportOption(CLI::App* command, const std::string& name, ReportPath* path) {
  std::string format = name.substr(2);
  std::transform(format.begin(), format.end(), format.begin(), ::toupper);
  command->add_option(name, *path, format + " to this file; without FILE to stdout, not the table")
      ->type_name("[FILE]")
      ->expected(0, 1)
      ->default_str(kStdout);
}

absl::Status CheckReports(const std::vector<ReportPath>& paths) {
  if (std::count(paths.begin(), paths.end(), kStdout) > 1) {
    return absl::InvalidArgumentError(
        "two reports cannot both go to stdout; name a file for one of them");
  }
  for (const ReportPath& path : paths) {
    if (path.empty() || path == kStdout) continue;
    // Not committed: nothing is left at the path.
    if (const auto file = OutputFile::Create(path, 1); !file.ok()) return file.status();
  }
  return absl::OkStatus();
}

absl::Status WriteReport(const ReportPath& path, const std::string& content) {
  if (path == kStdout) {
    std::cout << content;
    return absl::OkStatus();
  }
  return WriteFile(path, std::as_bytes(std::span(content)));
}

std::string CsvLine(const std::vector<std::string>& fields) {
  std::string line;
  for (const std::string& field : fields) {
    if (&field != fields.data()) line += ',';
    if (field.find_first_of(",\"\r\n") == std::string::npos) {
      line += field;
    } else {
      absl::StrAppend(&line, "\"", absl::StrReplaceAll(field, {{"\"", "\"\""}}), "\"");
    }
  }
  return line + '\n';
}

std::string CsvNumber(double value) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof(text), value).ptr};
}

std::string UtcNow() {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
}

}  // namespace sage::cli
