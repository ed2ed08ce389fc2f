#include "server/errors.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"

namespace sage::server {
namespace {

// Details ride along as payloads of the absl::Status, under the type URL of their Any.
template <typename Detail>
std::string TypeUrl() {
  return absl::StrCat("type.googleapis.com/", Detail::descriptor()->full_name());
}

template <typename Detail>
void Attach(absl::Status& status, const Detail& detail) {
  status.SetPayload(TypeUrl<Detail>(), absl::Cord(detail.SerializeAsString()));
}

absl::Status QuotaStatus(absl::StatusCode code, absl::string_view subject,
                         absl::string_view description) {
  absl::Status status(code, absl::StrCat(subject, ": ", description));
  google::rpc::QuotaFailure failure;
  google::rpc::QuotaFailure::Violation& violation = *failure.add_violations();
  violation.set_subject(std::string(subject));
  violation.set_description(std::string(description));
  Attach(status, failure);
  return status;
}

}  // namespace

absl::Status InvalidField(absl::string_view field, absl::string_view description) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(field, ": ", description));
  google::rpc::BadRequest bad_request;
  google::rpc::BadRequest::FieldViolation& violation = *bad_request.add_field_violations();
  violation.set_field(std::string(field));
  violation.set_description(std::string(description));
  Attach(status, bad_request);
  return status;
}

absl::Status WithFieldPath(const absl::Status& status, absl::string_view path) {
  if (!absl::IsInvalidArgument(status)) return status;
  const absl::string_view message = status.message();
  const std::size_t colon = message.find(": ");
  if (colon == absl::string_view::npos) return InvalidField(path, message);
  return InvalidField(absl::StrCat(path, ".", message.substr(0, colon)), message.substr(colon + 2));
}

absl::Status LimitReached(absl::string_view subject, absl::string_view description) {
  return QuotaStatus(absl::StatusCode::kResourceExhausted, subject, description);
}

absl::Status NeverFits(absl::string_view subject, absl::string_view description) {
  return QuotaStatus(absl::StatusCode::kFailedPrecondition, subject, description);
}

absl::Status WithRetryDelay(absl::Status status, std::chrono::milliseconds retry_delay) {
  google::rpc::RetryInfo retry;
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(retry_delay);
  retry.mutable_retry_delay()->set_seconds(seconds.count());
  retry.mutable_retry_delay()->set_nanos(
      static_cast<std::int32_t>(std::chrono::nanoseconds(retry_delay - seconds).count()));
  Attach(status, retry);
  return status;
}

std::string RefusalReason(const absl::Status& status) {
  if (absl::IsDeadlineExceeded(status)) return "deadline";
  if (absl::IsUnavailable(status)) return "unavailable";
  google::rpc::QuotaFailure failure;
  const auto payload = status.GetPayload(TypeUrl<google::rpc::QuotaFailure>());
  if (!payload.has_value() || !failure.ParseFromString(std::string(*payload)) ||
      failure.violations().empty()) {
    return "";
  }
  return failure.violations(0).subject();
}

}  // namespace sage::server
