// sage-server: command line, signals, and the life of one Server.
#include <malloc.h>
#include <pthread.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "server/backend_factory.h"
#include "server/command_line.h"
#include "server/health_probe.h"
#include "server/server.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace {

constexpr int kFailed = 1;

// Structured lines on stderr: time, level, then key=value fields.
void SetUpLog(const std::string& level) {
  auto logger = spdlog::stderr_logger_mt("sage");
  logger->set_pattern("time=%Y-%m-%dT%H:%M:%S.%fZ level=%l %v", spdlog::pattern_time_type::utc);
  logger->set_level(spdlog::level::from_str(level));
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

// With malloc's defaults, message buffers of some hundred KiB are given back to the system and
// faulted in again for every message, which costs more than filling them.
void KeepMessageBuffers() {
  mallopt(M_MMAP_THRESHOLD, 16 << 20);
  mallopt(M_TRIM_THRESHOLD, 64 << 20);
}

}  // namespace

int main(int argc, char** argv) {
  const sage::server::ParsedCommandLine parsed = sage::server::ParseCommandLine(argc, argv);
  if (parsed.exit_status.has_value()) return *parsed.exit_status;
  if (!parsed.health_check.empty()) {
    const absl::Status health = sage::server::ProbeHealth(parsed.health_check);
    if (!health.ok()) std::cerr << "sage-server: " << health.message() << '\n';
    return health.ok() ? EXIT_SUCCESS : kFailed;
  }
  SetUpLog(parsed.options.log_level);
  KeepMessageBuffers();

  // Signals are taken by a thread of their own; every thread made from here on inherits the mask.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  auto backends = sage::server::CreateBackends(parsed.options);
  if (!backends.ok()) {
    spdlog::critical("event=start_failed message=\"{}\"", std::string(backends.status().message()));
    return kFailed;
  }
  const std::size_t devices = backends->size();
  const sage::BackendInfo info = backends->front()->info();
  auto server = sage::server::Server::Start(parsed.options, *std::move(backends));
  if (!server.ok()) {
    spdlog::critical("event=start_failed message=\"{}\"", std::string(server.status().message()));
    return kFailed;
  }
  spdlog::info(
      "event=ready port={} metrics_port={} backend={} devices={} device=\"{}\" kernel_path={}",
      (*server)->port(), (*server)->metrics_port(), info.name, devices, info.device_name,
      info.kernel_path);

  std::thread([&signals, &server] {
    int signal = 0;
    sigwait(&signals, &signal);
    spdlog::info("event=signal signal={}", signal);
    (*server)->End();
    sigwait(&signals, &signal);
    spdlog::warn("event=signal signal={} message=\"second signal, leaving at once\"", signal);
    std::_Exit(128 + signal);
  }).detach();
  const absl::Status end = (*server)->AwaitEnd();
  const bool peaceful = (*server)->Drain();
  // A lost device can neither free its memory nor end its streams; the supervisor starts anew.
  if (!end.ok()) std::_Exit(kFailed);
  return peaceful ? EXIT_SUCCESS : kFailed;
}
