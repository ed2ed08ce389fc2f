// Which trace a request belongs to, as its caller says.
#ifndef SAGE_SERVER_TRACE_CONTEXT_H_
#define SAGE_SERVER_TRACE_CONTEXT_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace sage::server {

struct TraceContext {
  std::string trace_id;  // 32 hex digits
  std::string span_id;   // 16, of the caller's span
};

// Reads a `traceparent` header (W3C Trace Context, 2021); nothing where it is not valid, as that
// page asks for.
std::optional<TraceContext> ParseTraceParent(absl::string_view traceparent);

}  // namespace sage::server

#endif  // SAGE_SERVER_TRACE_CONTEXT_H_
