// A server in this process whose device goes wrong when told to.
#ifndef SAGE_TESTS_SUPPORT_FAULTY_SERVER_FIXTURE_H_
#define SAGE_TESTS_SUPPORT_FAULTY_SERVER_FIXTURE_H_

#include "tests/support/faulty_backend.h"
#include "tests/support/server_fixture.h"

namespace sage::testing {

// A base before ServerFixture, so that the switches outlive the server.
struct PlantedFaults {
  Faults faults;
};

class FaultyServerFixture : protected PlantedFaults, public ServerFixture {
 protected:
  void StartFaultyServer(const server::ServerOptions& options = TestServerOptions()) {
    StartServer(options, MakeFaultyBackend(TestBackend(), faults));
  }

  // Attends that begin from now on wait at the device until they are released.
  void HoldAttends() { faults.hold_attends = true; }
  // Until the first of them has come there.
  void AwaitHeldAttend() { faults.attends_held.wait(0); }
  void ReleaseAttends() {
    faults.hold_attends = false;
    faults.hold_attends.notify_all();
  }
};

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_FAULTY_SERVER_FIXTURE_H_
