// The results of `sagectl bench` as table, JSON and CSV.
#ifndef SAGE_CLIENT_CLI_BENCH_REPORT_H_
#define SAGE_CLIENT_CLI_BENCH_REPORT_H_

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "client/cli/bench/measurement.h"
#include "nlohmann/json.hpp"
#include "sage/v1/server.pb.h"

namespace sage::cli {

struct BenchRun {
  std::string target;
  v1::ServerInfo server;
  MeasureOptions options;
  std::uint64_t seed = 0;
  std::vector<Measurement> measurements;
};

// Calls with their spread, then the median of each stage.
void PrintBenchTables(const BenchRun& run, std::ostream& out);

// {"benchmark": "sagectl bench", "format": 1, "time", "server", "warmup", "repeat", "seed",
//  "cases": [{the problem, "mask", "resident_kv", "block_density", "bytes_in", "bytes_out",
//  "kernel_tops",
//             "call_tops", "gb_per_second", "seconds": {stage: {"median", "q1", "q3", "min",
//             "max"}}, "verification": {...}} or {the problem, "mask", "resident_kv", "error":
//             {"code", "message"}}]}
nlohmann::ordered_json BenchJson(const BenchRun& run);

// A line a case, after one of names; a case that failed has its error and no figures.
std::string BenchCsv(const BenchRun& run);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_BENCH_REPORT_H_
