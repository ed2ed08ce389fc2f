// A server in this process, on a port of its own, that is checked for leaks after every test.
#ifndef SAGE_TESTS_SUPPORT_SERVER_FIXTURE_H_
#define SAGE_TESTS_SUPPORT_SERVER_FIXTURE_H_

#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "server/server.h"

namespace sage::testing {

// Options for tests: loopback, any free port, the CPU backend with two threads.
server::ServerOptions TestServerOptions();

// A CPU backend with two threads; ends the test program where there is none.
std::unique_ptr<Backend> TestBackend();

// As many of those as asked for, the devices of one server.
std::vector<std::unique_ptr<Backend>> TestBackends(int count = 1);

// After each test requests hold nothing: no slab, no reservation, no ticket.
class ServerFixture : public ::testing::Test {
 protected:
  ServerFixture();

  // Starts the server; tests that want other options or another backend call it themselves, once,
  // before anything else.
  void StartServer(const server::ServerOptions& options = TestServerOptions(),
                   std::unique_ptr<Backend> backend = TestBackend());
  void StartServer(const server::ServerOptions& options,
                   std::vector<std::unique_ptr<Backend>> backends);
  void TearDown() override;

  server::Server& server() { return *server_; }
  std::string target() const;
  // A new connection, with the large messages of the service allowed; `arguments` besides.
  std::shared_ptr<grpc::Channel> NewChannel(grpc::ChannelArguments arguments = {}) const;

  // Waits until no request holds anything, at most 20 s; then what still is held.
  server::Server::Held AwaitIdle() const;

 private:
  std::unique_ptr<server::Server> server_;
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_SERVER_FIXTURE_H_
