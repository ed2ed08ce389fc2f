#include "server/run_server.h"

#include <pthread.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>

#include "server/server.h"
#include "spdlog/spdlog.h"

namespace sage::server {
namespace {

constexpr int kFailed = 1;
constexpr std::chrono::seconds kBetweenTidying{10};

int StartFailed(const absl::Status& why) {
  spdlog::critical("event=start_failed message=\"{}\"", std::string(why.message()));
  return kFailed;
}

}  // namespace

int RunServer(
    const ServerOptions& options,
    const std::function<absl::StatusOr<std::vector<std::unique_ptr<Backend>>>()>& create_backends) {
  // Signals are taken by a thread of their own; every thread made from here on inherits the mask.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  auto backends = create_backends();
  if (!backends.ok()) return StartFailed(backends.status());
  const std::size_t devices = backends->size();
  const BackendInfo info = backends->front()->info();
  auto server = Server::Start(options, *std::move(backends));
  if (!server.ok()) return StartFailed(server.status());
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
  while (!(*server)->AwaitEndFor(kBetweenTidying).has_value()) (*server)->GiveBackMemory();
  const bool peaceful = (*server)->Drain();
  // Asked once it is drained, since a device may be lost until then.
  if (!(*server)->AwaitEnd().ok()) std::_Exit(kFailed);
  return peaceful ? EXIT_SUCCESS : kFailed;
}

}  // namespace sage::server
