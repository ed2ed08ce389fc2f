// What an error of the service looks like to a client: code, text and the details that travel.
#ifndef SAGE_TESTS_SUPPORT_WIRE_ERROR_H_
#define SAGE_TESTS_SUPPORT_WIRE_ERROR_H_

#include <string>

#include "gmock/gmock.h"
#include "grpcpp/support/status.h"
#include "gtest/gtest.h"

namespace sage::testing {

// Which details come with an error. Their field or subject, and their description, are those of the
// message "FIELD: DESCRIPTION".
enum class Details {
  kNone,           // no google.rpc.Status details at all, or an empty list
  kBadRequest,     // BadRequest
  kQuota,          // QuotaFailure
  kQuotaAndRetry,  // QuotaFailure and RetryInfo: waiting helps
  kRetry,          // RetryInfo
};

// Success where `status` is of this code, its message matches and its details, decoded, are exactly
// those. Also holds the google.rpc.Status to the code and message of the gRPC status.
::testing::AssertionResult IsError(const grpc::Status& status, grpc::StatusCode code,
                                   const ::testing::Matcher<std::string>& message, Details details);

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_WIRE_ERROR_H_
