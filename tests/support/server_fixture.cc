#include "tests/support/server_fixture.h"

#include <chrono>
#include <cstdlib>
#include <iostream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpc/grpc.h"
#include "kernels/cpu/cpu_backend.h"
#include "spdlog/spdlog.h"

namespace sage::testing {

server::ServerOptions TestServerOptions() {
  server::ServerOptions options;
  options.listen = {"127.0.0.1:0"};
  options.backend = "cpu";
  return options;
}

std::unique_ptr<Backend> TestBackend() {
  absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCpuBackend({.num_threads = 2});
  if (!backend.ok()) {
    std::cerr << backend.status() << '\n';
    std::abort();
  }
  return *std::move(backend);
}

std::vector<std::unique_ptr<Backend>> TestBackends(int count) {
  std::vector<std::unique_ptr<Backend>> backends(count);
  for (std::unique_ptr<Backend>& backend : backends) backend = TestBackend();
  return backends;
}

ServerFixture::ServerFixture() {
  // gRPC stops when its last object goes, here between tests, and at times waits 10 s for a
  // descriptor that it forgets. So it is never stopped.
  static const bool started = (grpc_init(), true);
  static_cast<void>(started);
}

void ServerFixture::StartServer(const server::ServerOptions& options,
                                std::unique_ptr<Backend> backend) {
  std::vector<std::unique_ptr<Backend>> backends;
  backends.push_back(std::move(backend));
  StartServer(options, std::move(backends));
}

void ServerFixture::StartServer(const server::ServerOptions& options,
                                std::vector<std::unique_ptr<Backend>> backends) {
  ASSERT_EQ(server_, nullptr);
  spdlog::set_level(spdlog::level::off);
  auto server = server::Server::Start(options, std::move(backends));
  ASSERT_TRUE(server.ok()) << server.status();
  server_ = *std::move(server);
}

void ServerFixture::TearDown() {
  if (server_ == nullptr) return;
  EXPECT_EQ(AwaitIdle(), server::Server::Held{}) << "requests hold something after the test";
}

std::string ServerFixture::target() const { return absl::StrCat("127.0.0.1:", server_->port()); }

std::shared_ptr<grpc::Channel> ServerFixture::NewChannel(grpc::ChannelArguments arguments) const {
  arguments.SetMaxReceiveMessageSize(8 << 20);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target(), grpc::InsecureChannelCredentials(), arguments);
}

server::Server::Held ServerFixture::AwaitIdle() const {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  server::Server::Held held = server_->held();
  // The transport lets go of its last slices a moment after a call has ended, and tells nobody.
  while (held != server::Server::Held{} && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::yield();
    held = server_->held();
  }
  return held;
}

}  // namespace sage::testing
