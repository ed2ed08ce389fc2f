// Connections to a server, with the credentials that the client's options ask for.
#ifndef SAGE_CLIENT_INTERNAL_CHANNELS_H_
#define SAGE_CLIENT_INTERNAL_CHANNELS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/client.h"
#include "grpcpp/channel.h"

namespace sage::internal {

// FAILED_PRECONDITION where a target is all servers behind a name, or in a list, as dns:, ipv4: and
// ipv6: are.
absl::Status CheckOneServer(const std::string& target);

// As many as the options say, to each server of the target; they connect when first used.
// INVALID_ARGUMENT where a file of the credentials cannot be read or is open to others, or where a
// token would travel unencrypted to another machine.
absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> OpenChannels(
    const ClientOptions& options);

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_CHANNELS_H_
