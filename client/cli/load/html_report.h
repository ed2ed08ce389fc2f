// The results of `sagectl load` as a page.
#ifndef SAGE_CLIENT_CLI_LOAD_HTML_REPORT_H_
#define SAGE_CLIENT_CLI_LOAD_HTML_REPORT_H_

#include <string>

#include "client/cli/load/load_report.h"

namespace sage::cli {

// One file that needs no other: tables and inline SVG, no script, nothing from a network.
// Well-formed XML too.
std::string LoadHtml(const LoadRun& run);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_HTML_REPORT_H_
