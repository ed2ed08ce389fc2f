// Results that go to a file or to stdout, in one of several formats.
#ifndef SAGE_CLIENT_CLI_REPORT_FILE_H_
#define SAGE_CLIENT_CLI_REPORT_FILE_H_

#include <string>
#include <vector>

#include "CLI/App.hpp"
#include "absl/status/status.h"

namespace sage::cli {

// Where a report goes; not asked for while empty.
using ReportPath = std::string;
inline constexpr char kStdout[] = "-";

// Adds `--name [FILE]`: without FILE the report takes the table's place on stdout.
void AddReportOption(CLI::App* command, const std::string& name, ReportPath* path);

// INVALID_ARGUMENT where more than one of the reports goes to stdout, or a file that is named
// cannot be made: asked before a long run, which should not end in vain.
absl::Status CheckReports(const std::vector<ReportPath>& paths);

// INVALID_ARGUMENT, beginning with the file's name, where it cannot be written.
absl::Status WriteReport(const ReportPath& path, const std::string& content);

// One line, RFC 4180: fields that hold commas, quotes or line ends are quoted.
std::string CsvLine(const std::vector<std::string>& fields);
// The shortest text that reads back as the same number.
std::string CsvNumber(double value);

// "2026-11-23T18:00:00Z"
std::string UtcNow();

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_REPORT_FILE_H_
