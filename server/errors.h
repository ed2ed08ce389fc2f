// Errors as the service speaks them: absl::Status inside, google.rpc.Status with details on the
// wire.
#ifndef SAGE_SERVER_ERRORS_H_
#define SAGE_SERVER_ERRORS_H_

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace sage::server {

// INVALID_ARGUMENT for one field of the request: message "FIELD: DESCRIPTION", with a BadRequest
// detail.
absl::Status InvalidField(absl::string_view field, absl::string_view description);

// The same for a status of the kernels library, whose INVALID_ARGUMENT messages begin with "FIELD:
// ": the field's path is put before it. Other statuses pass unchanged.
absl::Status WithFieldPath(const absl::Status& status, absl::string_view path);

// RESOURCE_EXHAUSTED: a limit is reached; FAILED_PRECONDITION: it could never hold this. With a
// QuotaFailure detail; `subject` names the limit, for instance "server.host_bytes".
absl::Status LimitReached(absl::string_view subject, absl::string_view description);
absl::Status NeverFits(absl::string_view subject, absl::string_view description);

// Any refusal that waiting cures: adds a RetryInfo detail.
absl::Status WithRetryDelay(absl::Status status, std::chrono::milliseconds retry_delay);

// Why a request was refused, in a word for metrics: the limit's name of a QuotaFailure, "deadline"
// or "unavailable"; empty for other errors.
std::string RefusalReason(const absl::Status& status);

}  // namespace sage::server

#endif  // SAGE_SERVER_ERRORS_H_
