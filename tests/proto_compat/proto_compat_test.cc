// The contract of proto/sage/v1 against its last release, and the check itself against planted
// breaks.
#include "tests/proto_compat/proto_compat.h"

#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"

namespace sage::testing {
namespace {

using google::protobuf::DescriptorProto;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

TEST(ProtoCompat, ContractKeepsItsLastRelease) {
  FileDescriptorSet released;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(ReadFile(SAGE_RELEASED_DESCRIPTORS),
                                                            &released));
  FileDescriptorSet current;
  ASSERT_TRUE(current.ParseFromString(ReadFile(SAGE_CURRENT_DESCRIPTORS)));
  ASSERT_GT(released.file_size(), 0);
  EXPECT_THAT(ProtoBreaks(released, current), IsEmpty());
}

constexpr char kSample[] = R"(
  file {
    package: "p"
    message_type {
      name: "M"
      field { name: "a" number: 1 label: LABEL_OPTIONAL type: TYPE_INT32 }
      field { name: "b" number: 2 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".p.M.N" }
      field { name: "c" number: 3 label: LABEL_OPTIONAL type: TYPE_INT32 oneof_index: 0 }
      nested_type {
        name: "N"
        field { name: "d" number: 1 label: LABEL_OPTIONAL type: TYPE_BYTES }
      }
      enum_type { name: "F" value { name: "F_ZERO" number: 0 } }
      oneof_decl { name: "kind" }
    }
    enum_type {
      name: "E"
      value { name: "E_ZERO" number: 0 }
      value { name: "E_ONE" number: 1 }
    }
    service {
      name: "S"
      method { name: "Call" input_type: ".p.M" output_type: ".p.M" client_streaming: true }
    }
  })";

class PlantedBreak : public ::testing::Test {
 protected:
  PlantedBreak() {
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(kSample, &released_));
    current_ = released_;
  }

  FileDescriptorProto& file() { return *current_.mutable_file(0); }
  DescriptorProto& message() { return *file().mutable_message_type(0); }
  FieldDescriptorProto& field(int index) { return *message().mutable_field(index); }
  std::vector<std::string> Breaks() const { return ProtoBreaks(released_, current_); }

 private:
  FileDescriptorSet released_;
  FileDescriptorSet current_;
};

TEST_F(PlantedBreak, NoChangeIsNoBreak) { EXPECT_THAT(Breaks(), IsEmpty()); }

TEST_F(PlantedBreak, AdditionsAreNoBreak) {
  *message().add_field() = field(0);
  message().mutable_field(3)->set_name("added");
  message().mutable_field(3)->set_number(9);
  file().add_message_type()->set_name("Added");
  file().mutable_service(0)->add_method()->set_name("Added");
  file().mutable_enum_type(0)->add_value()->set_name("E_ADDED");
  EXPECT_THAT(Breaks(), IsEmpty());
}

TEST_F(PlantedBreak, RemovedFieldIsFound) {
  message().mutable_field()->DeleteSubrange(0, 1);
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("field p.M.a is gone")));
}

TEST_F(PlantedBreak, RenamedFieldIsFound) {
  field(0).set_name("z");
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("field p.M.a is gone")));
}

TEST_F(PlantedBreak, RenumberedFieldIsFound) {
  field(0).set_number(7);
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("field p.M.a changed from = 1")));
}

TEST_F(PlantedBreak, RetypedFieldIsFound) {
  field(0).set_type(FieldDescriptorProto::TYPE_SINT32);
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("to = 1, LABEL_OPTIONAL TYPE_SINT32")));
}

TEST_F(PlantedBreak, FieldOfAnotherMessageTypeIsFound) {
  field(1).set_type_name(".p.M");
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("field p.M.b changed")));
}

TEST_F(PlantedBreak, ChangedLabelIsFound) {
  field(0).set_label(FieldDescriptorProto::LABEL_REPEATED);
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("to = 1, LABEL_REPEATED")));
}

TEST_F(PlantedBreak, FieldThatLeavesItsOneofIsFound) {
  field(2).clear_oneof_index();
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("field p.M.c changed")));
}

TEST_F(PlantedBreak, NewExplicitPresenceIsFound) {
  message().add_oneof_decl()->set_name("_a");
  field(0).set_oneof_index(1);
  field(0).set_proto3_optional(true);
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("optional")));
}

TEST_F(PlantedBreak, NestedElementsAreCompared) {
  message().mutable_nested_type(0)->mutable_field(0)->set_number(5);
  message().mutable_enum_type(0)->mutable_value(0)->set_name("F_OTHER");
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("field p.M.N.d changed"),
                                    HasSubstr("value p.M.F.F_ZERO is gone")));
}

TEST_F(PlantedBreak, RemovedEnumValueIsFound) {
  file().mutable_enum_type(0)->mutable_value()->RemoveLast();
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("value p.E.E_ONE is gone; was = 1")));
}

TEST_F(PlantedBreak, RenumberedEnumValueIsFound) {
  file().mutable_enum_type(0)->mutable_value(1)->set_number(2);
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("value p.E.E_ONE changed from = 1 to = 2")));
}

TEST_F(PlantedBreak, RemovedMethodIsFound) {
  file().mutable_service(0)->clear_method();
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("method p.S.Call is gone")));
}

TEST_F(PlantedBreak, ChangedStreamingIsFound) {
  file().mutable_service(0)->mutable_method(0)->set_client_streaming(false);
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("method p.S.Call changed")));
}

TEST_F(PlantedBreak, ChangedRequestOrResponseTypeIsFound) {
  file().mutable_service(0)->mutable_method(0)->set_input_type(".p.M.N");
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("method p.S.Call changed")));
  file().mutable_service(0)->mutable_method(0)->set_input_type(".p.M");
  file().mutable_service(0)->mutable_method(0)->set_output_type(".p.M.N");
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("method p.S.Call changed")));
}

TEST_F(PlantedBreak, RemovedMessageIsFound) {
  message().clear_nested_type();
  EXPECT_THAT(Breaks(),
              ElementsAre(HasSubstr("field p.M.N.d is gone"), HasSubstr("message p.M.N is gone")));
}

TEST_F(PlantedBreak, RemovedEnumIsFound) {
  message().clear_enum_type();
  EXPECT_THAT(Breaks(), ElementsAre(HasSubstr("enum p.M.F is gone"),
                                    HasSubstr("value p.M.F.F_ZERO is gone")));
}

TEST_F(PlantedBreak, RemovedServiceIsFound) {
  file().clear_service();
  EXPECT_THAT(Breaks(),
              ElementsAre(HasSubstr("method p.S.Call is gone"), HasSubstr("service p.S is gone")));
}

TEST_F(PlantedBreak, ChangedPackageIsFound) {
  file().set_package("q");
  EXPECT_FALSE(Breaks().empty());
}

}  // namespace
}  // namespace sage::testing
