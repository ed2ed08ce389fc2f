#include "tests/support/wire_error.h"

#include <optional>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace sage::testing {
namespace {

struct Decoded {
  std::optional<google::rpc::BadRequest> bad_request;
  std::optional<google::rpc::QuotaFailure> quota;
  std::optional<google::rpc::RetryInfo> retry;
  int others = 0;
};

Decoded Decode(const google::rpc::Status& status) {
  Decoded decoded;
  for (const google::protobuf::Any& detail : status.details()) {
    google::rpc::BadRequest bad_request;
    google::rpc::QuotaFailure quota;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&bad_request)) {
      decoded.bad_request = bad_request;
    } else if (detail.UnpackTo(&quota)) {
      decoded.quota = quota;
    } else if (detail.UnpackTo(&retry)) {
      decoded.retry = retry;
    } else {
      ++decoded.others;
    }
  }
  return decoded;
}

}  // namespace

::testing::AssertionResult IsError(const grpc::Status& status, grpc::StatusCode code,
                                   const ::testing::Matcher<std::string>& message,
                                   Details details) {
  ::testing::AssertionResult failure = ::testing::AssertionFailure();
  failure << "got " << status.error_code() << " \"" << status.error_message() << "\": ";
  if (status.error_code() != code) return failure << "want code " << code;
  if (!message.Matches(status.error_message())) {
    return failure << "want a message that " << ::testing::DescribeMatcher<std::string>(message);
  }
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) return failure << "details do not parse";
  const bool has_rich = !status.error_details().empty();
  if (has_rich && (rich.code() != code || rich.message() != status.error_message())) {
    return failure << "google.rpc.Status says " << rich.ShortDebugString();
  }
  const Decoded decoded = Decode(rich);
  failure << "details " << rich.ShortDebugString() << ": ";
  const bool wants_quota = details == Details::kQuota || details == Details::kQuotaAndRetry;
  const bool wants_retry = details == Details::kRetry || details == Details::kQuotaAndRetry;
  if (decoded.bad_request.has_value() != (details == Details::kBadRequest) ||
      decoded.quota.has_value() != wants_quota || decoded.retry.has_value() != wants_retry ||
      decoded.others > 0) {
    return failure << "not the details wanted";
  }
  const auto says_it = [&](const std::string& subject, const std::string& description) {
    return subject + ": " + description == status.error_message();
  };
  if (decoded.bad_request.has_value() &&
      (decoded.bad_request->field_violations_size() != 1 ||
       !says_it(decoded.bad_request->field_violations(0).field(),
                decoded.bad_request->field_violations(0).description()))) {
    return failure << "BadRequest does not say what the message says";
  }
  if (decoded.quota.has_value() && (decoded.quota->violations_size() != 1 ||
                                    !says_it(decoded.quota->violations(0).subject(),
                                             decoded.quota->violations(0).description()))) {
    return failure << "QuotaFailure does not say what the message says";
  }
  if (decoded.retry.has_value() && decoded.retry->retry_delay().seconds() <= 0 &&
      decoded.retry->retry_delay().nanos() <= 0) {
    return failure << "RetryInfo without a delay";
  }
  return ::testing::AssertionSuccess();
}

}  // namespace sage::testing
