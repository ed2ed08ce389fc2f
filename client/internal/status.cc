#include "client/internal/status.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "google/protobuf/any.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace sage::internal {
namespace {

// "subject: description", or nothing where the message says so already.
void AddUnlessSaid(const std::string& message, const std::string& subject,
                   const std::string& description, std::vector<std::string>* notes) {
  if (absl::StrContains(message, subject) && absl::StrContains(message, description)) return;
  notes->push_back(absl::StrCat(subject, ": ", description));
}

std::vector<std::string> ReadDetails(const grpc::Status& status) {
  google::rpc::Status details;
  std::vector<std::string> notes;
  if (!details.ParseFromString(status.error_details())) return notes;
  const std::string message = status.error_message();
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::BadRequest bad_request;
    google::rpc::QuotaFailure quota;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        AddUnlessSaid(message, violation.field(), violation.description(), &notes);
      }
    } else if (detail.UnpackTo(&quota)) {
      for (const auto& violation : quota.violations()) {
        AddUnlessSaid(message, violation.subject(), violation.description(), &notes);
      }
    } else if (detail.UnpackTo(&retry)) {
      const absl::Duration delay = absl::Seconds(retry.retry_delay().seconds()) +
                                   absl::Nanoseconds(retry.retry_delay().nanos());
      notes.push_back(absl::StrCat("try again in ", absl::FormatDuration(delay)));
    }
  }
  return notes;
}

// gRPC tells connection failures from a server's own UNAVAILABLE by text alone.
bool NeverReached(const std::string& message) {
  return absl::StrContains(message, "failed to connect") ||
         absl::StrContains(message, "DNS resolution") || absl::StrContains(message, "name resol") ||
         absl::StrContains(message, "onnection refused");
}

// Somebody listens there, but does not like what it hears.
bool BrokeInHandshake(const std::string& message) {
  return absl::StrContains(message, "Socket closed") ||
         absl::StrContains(message, "Connection reset") || absl::StrContains(message, "andshake");
}

}  // namespace

absl::Status FromGrpc(const grpc::Status& status, const std::string& target) {
  if (status.ok()) return absl::OkStatus();
  std::string message = status.error_message();
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE && status.error_details().empty() &&
      NeverReached(message)) {
    message = absl::StrCat("cannot reach ", target, ": ", message,
                           BrokeInHandshake(message)
                               ? "; do both sides use TLS, and accept each other's certificates?"
                               : "; is sage-server running?");
  }
  const std::vector<std::string> notes = ReadDetails(status);
  if (!notes.empty()) absl::StrAppend(&message, " (", absl::StrJoin(notes, "; "), ")");
  return {static_cast<absl::StatusCode>(status.error_code()), message};
}

}  // namespace sage::internal
