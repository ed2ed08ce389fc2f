// K and V that stay at the server while several requests use them.
#ifndef SAGE_CLIENT_CLI_RESIDENT_KV_H_
#define SAGE_CLIENT_CLI_RESIDENT_KV_H_

#include <utility>

#include "absl/status/statusor.h"
#include "client/cli/problem_inputs.h"
#include "client/client.h"

namespace sage::cli {

// Move-only; released at the server on destruction.
class ResidentKv {
 public:
  // Puts both, on the same device. `inputs`, whose tensors hold elements of problem.dtype, outlive
  // the result. Errors are those of Client::Put().
  static absl::StatusOr<ResidentKv> Put(Client* client, const ProblemInputs& inputs);

  // Makes `request` use them in place of its own k and v; borrowed until it is over.
  void Use(AttendRequest* request) const;

 private:
  ResidentKv(RemoteTensor k, RemoteTensor v) : k_(std::move(k)), v_(std::move(v)) {}

  RemoteTensor k_;
  RemoteTensor v_;
};

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_RESIDENT_KV_H_
