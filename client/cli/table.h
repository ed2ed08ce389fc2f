// Aligned columns of text.
#ifndef SAGE_CLIENT_CLI_TABLE_H_
#define SAGE_CLIENT_CLI_TABLE_H_

#include <ostream>
#include <string>
#include <vector>

namespace sage::cli {

// Rows of equal length; the first column is flush left, all others flush right. Verdicts
// (ok, FAILED, ...) are coloured where `out` is std::cout and that a terminal; never in the first
// row, which has names.
void PrintTable(const std::vector<std::vector<std::string>>& rows, std::ostream& out);

// "12.3 MiB"
std::string ByteText(double bytes);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_TABLE_H_
