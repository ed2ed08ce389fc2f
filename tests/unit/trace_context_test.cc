#include "server/trace_context.h"

#include <string>

#include "gtest/gtest.h"

namespace sage::server {
namespace {

const std::string kTrace = "4bf92f3577b34da6a3ce929d0e0e4736";
const std::string kSpan = "00f067aa0ba902b7";

TEST(TraceContextTest, ReadsWhatIsValid) {
  for (const std::string& text :
       {"00-" + kTrace + "-" + kSpan + "-01", "00-" + kTrace + "-" + kSpan + "-00",
        "cc-" + kTrace + "-" + kSpan + "-01-what-will-be"}) {
    const auto trace = ParseTraceParent(text);
    ASSERT_TRUE(trace.has_value()) << text;
    EXPECT_EQ(trace->trace_id, kTrace);
    EXPECT_EQ(trace->span_id, kSpan);
  }
}

TEST(TraceContextTest, IgnoresWhatIsNot) {
  const std::string zeros(32, '0');
  for (const std::string& text :
       {std::string(), std::string("00"), "00-" + kTrace + "-" + kSpan + "-0",
        "00-" + kTrace + "-" + kSpan + "-011", "00-" + kTrace + "-" + kSpan + "-01-more",
        "cc-" + kTrace + "-" + kSpan + "-01more", "ff-" + kTrace + "-" + kSpan + "-01",
        "00-" + zeros + "-" + kSpan + "-01", "00-" + kTrace + "-" + zeros.substr(16) + "-01",
        "00_" + kTrace + "-" + kSpan + "-01", "00-" + kTrace.substr(1) + "A-" + kSpan + "-01",
        "0g-" + kTrace + "-" + kSpan + "-01", "00-" + kTrace + "-" + kSpan + "-\n1"}) {
    EXPECT_FALSE(ParseTraceParent(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace sage::server
