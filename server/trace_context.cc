#include "server/trace_context.h"

namespace sage::server {
namespace {

constexpr std::size_t kSize = 55;  // VERSION-TRACE_ID-SPAN_ID-FLAGS: 2, 32, 16 and 2 digits

bool IsLowerHex(absl::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == absl::string_view::npos;
}

bool IsZero(absl::string_view text) {
  return text.find_first_not_of('0') == absl::string_view::npos;
}

}  // namespace

std::optional<TraceContext> ParseTraceParent(absl::string_view traceparent) {
  if (traceparent.size() < kSize) return std::nullopt;
  const absl::string_view version = traceparent.substr(0, 2);
  const absl::string_view trace_id = traceparent.substr(3, 32);
  const absl::string_view span_id = traceparent.substr(36, 16);
  const absl::string_view flags = traceparent.substr(53, 2);
  // Later versions may say more behind it.
  const bool ends = traceparent.size() == kSize || (version != "00" && traceparent[kSize] == '-');
  const bool dashes = traceparent[2] == '-' && traceparent[35] == '-' && traceparent[52] == '-';
  if (!ends || !dashes || version == "ff" || IsZero(trace_id) || IsZero(span_id)) {
    return std::nullopt;
  }
  for (const absl::string_view part : {version, trace_id, span_id, flags}) {
    if (!IsLowerHex(part)) return std::nullopt;
  }
  return TraceContext{std::string(trace_id), std::string(span_id)};
}

}  // namespace sage::server
