#include "client/io/npy.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/aligned_content.h"

namespace sage {
namespace {

using Content = testing::AlignedContent;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string File(const std::string& dict, std::size_t data_bytes, int version = 1) {
  std::string text = "\x93NUMPY";
  text += static_cast<char>(version);
  text += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) {
    text += static_cast<char>(dict.size() >> (8 * i));
  }
  text += dict;
  text.append(data_bytes, 'x');
  return text;
}

std::string Dict(const std::string& descr, const std::string& shape) {
  std::string dict = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': " + shape + ", }";
  dict.append(117 - dict.size(), ' ');  // to 64-byte alignment in version 1
  return dict + "\n";
}

TEST(NpyTest, ReadsBackWhatItsHeaderSays) {
  for (const ElementType type :
       {ElementType::kFloat16, ElementType::kFloat32, ElementType::kBool, ElementType::kUInt8}) {
    for (const std::vector<std::int64_t>& shape :
         {std::vector<std::int64_t>{}, {7}, {2, 3}, {1, 2, 129, 64}, {2, 0, 3}}) {
      const std::string header = NpyHeader(type, shape);
      EXPECT_EQ(header.size() % 64, 0u);
      const std::int64_t bytes = TensorBytes(type, shape).value();
      const Content content(header + std::string(bytes, 'x'));
      const auto tensor = ParseNpy(content.bytes());
      ASSERT_TRUE(tensor.ok()) << tensor.status();
      EXPECT_EQ(tensor->type, type);
      EXPECT_EQ(tensor->shape, shape);
      EXPECT_EQ(tensor->bytes, bytes);
      EXPECT_EQ(tensor->data, content.bytes().data() + header.size());
    }
  }
}

TEST(NpyTest, ReadsVersion2AndOtherSpellings) {
  const Content v2(File("{\"shape\":(2,3),\"fortran_order\":False,\"descr\":\"|i1\"}", 6, 2));
  const auto tensor = ParseNpy(v2.bytes());
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(tensor->type, ElementType::kUInt8);
  EXPECT_THAT(tensor->shape, ElementsAre(2, 3));
}

TEST(NpyTest, RefusesOtherTypesWithAHint) {
  const auto message = [](const std::string& descr, std::size_t bytes) {
    return std::string(
        ParseNpy(Content(File(Dict(descr, "(4,)"), bytes)).bytes()).status().message());
  };
  EXPECT_THAT(message("<f8", 32), HasSubstr("astype(numpy.float16)"));
  EXPECT_THAT(message(">f2", 8), HasSubstr("big-endian"));
  EXPECT_THAT(message("<u2", 8), HasSubstr("safetensors"));
  EXPECT_THAT(message("|V2", 8), HasSubstr("safetensors"));
}

TEST(NpyTest, RefusesFortranOrder) {
  const std::string dict = "{'descr': '<f2', 'fortran_order': True, 'shape': (2, 2), }";
  EXPECT_THAT(std::string(ParseNpy(Content(File(dict, 8)).bytes()).status().message()),
              HasSubstr("ascontiguousarray"));
}

TEST(NpyTest, RefusesEveryTruncation) {
  const std::string file = File(Dict("<f2", "(3, 5)"), 30);
  ASSERT_TRUE(ParseNpy(Content(file).bytes()).ok());
  for (std::size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(ParseNpy(Content(file.substr(0, size)).bytes()).ok()) << size;
  }
  EXPECT_FALSE(ParseNpy(Content(file + "x").bytes()).ok());
}

TEST(NpyTest, RefusesHostileHeaders) {
  for (const std::string& dict : {
           std::string("{'descr': '<f2', 'fortran_order': False, 'shape': (-1,), }"),
           std::string(
               "{'descr': '<f2', 'fortran_order': False, 'shape': (99999999999999999999,)}"),
           std::string("{'descr': '<f2', 'fortran_order': False, "
                       "'shape': (4611686018427387904, 4611686018427387904)}"),
           std::string("{'descr': '<f2', 'fortran_order': False, 'shape': (4}"),
           std::string("{'descr': '<f2', 'fortran_order': False, 'shape': 4}"),
           std::string("{'descr': '<f2', 'fortran_order': Maybe, 'shape': (4,)}"),
           std::string("{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (4,)}"),
           std::string("{'descr': '<f2', 'descr': '<f4', 'fortran_order': False, 'shape': (4,)}"),
           std::string("{'descr': '<f2', 'fortran_order': False}"),
           std::string("{'descr': '<f2"),
           std::string("{"),
           std::string(""),
           "{'descr': '<f2', 'fortran_order': False, 'shape': (" + std::string(5000, '(') + ")}",
       }) {
    EXPECT_FALSE(ParseNpy(Content(File(dict, 8)).bytes()).ok()) << dict;
  }
  std::string huge_header = File(Dict("<f2", "(4,)"), 8, 2);
  huge_header[11] = '\xff';  // header length of 4 GiB
  EXPECT_FALSE(ParseNpy(Content(huge_header).bytes()).ok());
  huge_header[6] = 3;
  EXPECT_FALSE(ParseNpy(Content(huge_header).bytes()).ok());
}

TEST(NpyTest, SurvivesEveryChangedByte) {
  const std::string file = File(Dict("<f2", "(3, 5)"), 30);
  for (std::size_t i = 0; i < file.size(); ++i) {
    for (const char byte : {'\0', '\xff', '(', '9', '\''}) {
      std::string changed = file;
      changed[i] = byte;
      const Content content(changed);
      const auto tensor = ParseNpy(content.bytes());  // must not read outside; may well succeed
      if (tensor.ok()) {
        EXPECT_LE(tensor->data + tensor->bytes, content.bytes().data() + content.bytes().size());
      }
    }
  }
}

}  // namespace
}  // namespace sage
