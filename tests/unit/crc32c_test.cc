#include "proto/wire/crc32c.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"

namespace sage {
namespace {

std::uint32_t Crc(std::string_view text) { return ExtendCrc32c(0, text.data(), text.size()); }

TEST(Crc32cTest, MatchesPublishedVectors) {  // RFC 3720, appendix B.4
  EXPECT_EQ(Crc(""), 0u);
  EXPECT_EQ(Crc("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc(std::string(32, '\xff')), 0x62a8ab43u);
  std::string ascending;
  for (char c = 0; c < 32; ++c) ascending.push_back(c);
  EXPECT_EQ(Crc(ascending), 0x46dd794eu);
}

TEST(Crc32cTest, ExtendsOverAnyCut) {
  std::string text;
  for (int i = 0; i < 100; ++i) text.push_back(static_cast<char>(i * 37 + 11));
  // Bit by bit, from the definition.
  std::uint32_t want = 0xffffffffu;
  for (char c : text) {
    want ^= static_cast<std::uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) want = (want >> 1) ^ ((want & 1) != 0 ? 0x82f63b78u : 0);
  }
  want = ~want;
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    const std::uint32_t head = ExtendCrc32c(0, text.data(), cut);
    EXPECT_EQ(ExtendCrc32c(head, text.data() + cut, text.size() - cut), want) << cut;
  }
}

}  // namespace
}  // namespace sage
