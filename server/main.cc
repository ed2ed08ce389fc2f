// sage-server: command line, log, and one server.
#include <malloc.h>

#include <cstdlib>
#include <iostream>

#include "server/backend_factory.h"
#include "server/command_line.h"
#include "server/health_probe.h"
#include "server/library_logs.h"
#include "server/run_server.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace {

// Structured lines on stderr: time, level, then key=value fields.
void SetUpLog(const std::string& level) {
  auto logger = spdlog::stderr_logger_mt("sage");
  logger->set_pattern("time=%Y-%m-%dT%H:%M:%S.%fZ level=%l %v", spdlog::pattern_time_type::utc);
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  sage::server::TakeLibraryLogs();
}

// Slabs become mappings of their own, which leave nothing behind when they are freed. By default
// glibc would put them, once some had been freed, beside the small buffers of messages, and the
// holes between them grow for hours. Those buffers are kept: to give them back to the system and to
// fault them in again for every message costs more than filling them.
void KeepMessageBuffersApart() {
  mallopt(M_MMAP_THRESHOLD, 128 << 10);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
  mallopt(M_ARENA_MAX, 4);
}

}  // namespace

int main(int argc, char** argv) {
  const sage::server::ParsedCommandLine parsed = sage::server::ParseCommandLine(argc, argv);
  if (parsed.exit_status.has_value()) return *parsed.exit_status;
  if (!parsed.health_check.empty()) {
    const absl::Status health = sage::server::ProbeHealth(parsed.health_check, parsed.options);
    if (!health.ok()) std::cerr << "sage-server: " << health.message() << '\n';
    return health.ok() ? EXIT_SUCCESS : EXIT_FAILURE;
  }
  SetUpLog(parsed.options.log_level);
  KeepMessageBuffersApart();
  return sage::server::RunServer(
      parsed.options, [&parsed] { return sage::server::CreateBackends(parsed.options); });
}
