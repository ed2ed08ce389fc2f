// The real world of a load test: the steady clock, and clients of one or more servers.
#ifndef SAGE_CLIENT_CLI_LOAD_CLIENT_ENVIRONMENT_H_
#define SAGE_CLIENT_CLI_LOAD_CLIENT_ENVIRONMENT_H_

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/load/load_environment.h"
#include "client/cli/problem_inputs.h"
#include "client/cli/resident_kv.h"
#include "client/client.h"

namespace sage::cli {

struct MixedInputs {
  ProblemInputs inputs;
  double weight = 1;  // how often it is sent, against the others
  bool resident_kv = false;
};

// Requests go to the clients in turn; what each one is, is drawn by weight. All calls must be over
// before destruction, which RunStep() sees to.
class ClientEnvironment : public LoadEnvironment {
 public:
  // `mix` is not empty; it and what the other pointers refer to outlive this. A set `*stop` ends
  // the run.
  ClientEnvironment(std::vector<Client*> clients, const std::vector<MixedInputs>* mix,
                    std::uint64_t seed, const std::atomic<bool>* stop);

  // Puts the K and V that are to be resident, at each client's server: once a connection, until
  // destruction. To be called before anything is sent. Errors are those of Client::Put().
  absl::Status PutResident();

  std::chrono::nanoseconds Now() const override;
  void Send(Done done) override;
  void Wait(std::chrono::nanoseconds until) override;
  bool Stopped() const override { return *stop_; }

 private:
  using Buffer = std::vector<std::byte>;

  struct Arrived {
    Done done;
    LoadAnswer answer;
    std::unique_ptr<Buffer> out;
  };

  const std::vector<Client*> clients_;
  const std::vector<MixedInputs>& mix_;
  const std::atomic<bool>* const stop_;
  std::vector<std::vector<std::optional<ResidentKv>>> resident_;  // by client, then as mix_
  std::size_t next_client_ = 0;
  std::mt19937_64 generator_;
  std::discrete_distribution<std::size_t> choice_;
  std::size_t out_bytes_ = 0;                           // of the largest output
  std::vector<std::unique_ptr<Buffer>> spare_buffers_;  // each as large as that

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Arrived> arrived_;  // guarded by mutex_
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_LOAD_CLIENT_ENVIRONMENT_H_
