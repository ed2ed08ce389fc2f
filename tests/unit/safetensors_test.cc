#include "client/io/safetensors.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/aligned_content.h"

namespace sage {
namespace {

using Content = testing::AlignedContent;
using ::testing::HasSubstr;

std::string File(std::string header, std::size_t data_bytes) {
  header.append((8 - header.size() % 8) % 8, ' ');
  std::string text;
  for (int i = 0; i < 8; ++i) text += static_cast<char>(header.size() >> (8 * i));
  return text + header + std::string(data_bytes, 'x');
}

std::string Message(const std::string& file) {
  return std::string(ParseSafetensors(Content(file).bytes()).status().message());
}

TEST(SafetensorsTest, ReadsBackWhatItsHeaderSays) {
  const std::vector<NamedTensor> tensors = {{"lse", ElementType::kFloat32, {1, 2, 3}},
                                            {"q", ElementType::kBFloat16, {2, 3, 4, 8}},
                                            {"empty", ElementType::kFloat16, {0, 4}},
                                            {"mask", ElementType::kBool, {3, 5}}};
  const std::string header = SafetensorsHeader(tensors);
  EXPECT_EQ(header.size() % 8, 0u);
  const Content content(header + std::string(24 + 384 + 0 + 15, 'x'));
  const auto parsed = ParseSafetensors(content.bytes());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->size(), tensors.size());
  const std::byte* expected = content.bytes().data() + header.size();
  for (const NamedTensor& tensor : tensors) {
    const TensorView& view = parsed->at(tensor.name);
    EXPECT_EQ(view.type, tensor.type);
    EXPECT_EQ(view.shape, tensor.shape);
    EXPECT_EQ(view.data, expected) << tensor.name;
    expected += view.bytes;
  }
}

TEST(SafetensorsTest, LeavesOutOtherTypesAndMetadata) {
  const auto parsed =
      ParseSafetensors(Content(File(R"({"__metadata__":{"format":"pt"},)"
                                    R"("i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                                    R"("q":{"dtype":"F16","shape":[2],"data_offsets":[8,12]}})",
                                    12))
                           .bytes());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->size(), 1u);
  EXPECT_EQ(parsed->count("q"), 1u);
}

TEST(SafetensorsTest, RefusesHostileHeaders) {
  const auto tensor = [](const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return R"({"q":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}}";
  };
  ASSERT_EQ(Message(File(tensor("\"F16\"", "[4]", "[0,8]"), 8)), "");
  for (const std::string& header : {
           tensor("\"F16\"", "[4]", "[0,9]"),
           tensor("\"F16\"", "[4]", "[8,0]"),
           tensor("\"F16\"", "[4]", "[0,18446744073709551615]"),
           tensor("\"F16\"", "[4]", "[-8,0]"),
           tensor("\"F16\"", "[4]", "[0,8.0]"),
           tensor("\"F16\"", "[4]", "[0]"),
           tensor("\"F16\"", "[4]", "8"),
           tensor("\"F16\"", "[5]", "[0,8]"),
           tensor("\"F16\"", "[-4]", "[0,8]"),
           tensor("\"F16\"", "[4611686018427387904,4611686018427387904]", "[0,8]"),
           tensor("\"F16\"", "\"4\"", "[0,8]"),
           tensor("7", "[4]", "[0,8]"),
           std::string(R"({"q":7})"),
           std::string(R"({"q":{}})"),
           std::string("[]"),
           std::string("{"),
           std::string(""),
           std::string("{\"q\xff\":{}}"),
           std::string(100000, '['),
       }) {
    EXPECT_NE(Message(File(header, 8)), "") << header.substr(0, 100);
  }
}

TEST(SafetensorsTest, RefusesOverlapsGapsAndRepeats) {
  const auto two = [](const char* second_name, const char* second_offsets) {
    return File(std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},")") +
                    second_name + R"(":{"dtype":"U8","shape":[4],"data_offsets":)" +
                    second_offsets + "}}",
                8);
  };
  EXPECT_EQ(Message(two("b", "[4,8]")), "");
  EXPECT_THAT(Message(two("b", "[2,6]")), HasSubstr("overlap"));
  EXPECT_THAT(Message(two("b", "[0,4]")), HasSubstr("overlap"));
  EXPECT_THAT(Message(two("a", "[4,8]")), HasSubstr("twice"));
  EXPECT_THAT(Message(File(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", 8)),
              HasSubstr("gaps"));
  EXPECT_THAT(Message(File(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 8)),
              HasSubstr("goes on"));
}

TEST(SafetensorsTest, RefusesUnalignedTensors) {
  EXPECT_THAT(Message(File(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                           R"("b":{"dtype":"F16","shape":[1],"data_offsets":[1,3]}})",
                           3)),
              HasSubstr("aligned"));
}

TEST(SafetensorsTest, RefusesEveryTruncation) {
  const std::string file = File(R"({"q":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}})", 8);
  ASSERT_EQ(Message(file), "");
  for (std::size_t size = 0; size < file.size(); ++size) {
    EXPECT_NE(Message(file.substr(0, size)), "") << size;
  }
}

TEST(SafetensorsTest, SurvivesEveryChangedByte) {
  const std::string file = File(R"({"q":{"dtype":"F16","shape":[4],"data_offsets":[0,8]}})", 8);
  for (std::size_t i = 0; i < file.size(); ++i) {
    for (const char byte : {'\0', '\xff', '{', '9', '"', ']'}) {
      std::string changed = file;
      changed[i] = byte;
      const Content content(changed);
      const auto tensors = ParseSafetensors(content.bytes());  // may well succeed
      if (!tensors.ok()) continue;
      for (const auto& [name, view] : *tensors) {
        EXPECT_LE(view.data + view.bytes, content.bytes().data() + content.bytes().size());
      }
    }
  }
}

}  // namespace
}  // namespace sage
