#include "tests/proto_compat/proto_compat.h"

#include <map>

#include "absl/strings/str_cat.h"

namespace sage::testing {
namespace {

using google::protobuf::DescriptorProto;
using google::protobuf::EnumDescriptorProto;
using google::protobuf::EnumValueDescriptorProto;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;
using google::protobuf::FileDescriptorSet;
using google::protobuf::MethodDescriptorProto;
using google::protobuf::ServiceDescriptorProto;

// Everything that wire and source compatibility hang on, by full name: what one side of the
// comparison knows of each element, as text.
class Elements {
 public:
  explicit Elements(const FileDescriptorSet& files) {
    for (const FileDescriptorProto& file : files.file()) {
      const std::string scope = file.package() + ".";
      for (const DescriptorProto& message : file.message_type()) AddMessage(scope, message);
      for (const EnumDescriptorProto& an_enum : file.enum_type()) AddEnum(scope, an_enum);
      for (const ServiceDescriptorProto& service : file.service()) AddService(scope, service);
    }
  }

  const std::map<std::string, std::string>& by_name() const { return by_name_; }

 private:
  void AddMessage(const std::string& scope, const DescriptorProto& message) {
    const std::string name = scope + message.name();
    by_name_["message " + name];
    for (const FieldDescriptorProto& field : message.field()) {
      std::string text =
          absl::StrCat("= ", field.number(), ", ", FieldDescriptorProto::Label_Name(field.label()),
                       " ", FieldDescriptorProto::Type_Name(field.type()), field.type_name());
      if (field.proto3_optional()) {
        text += ", optional";
      } else if (field.has_oneof_index()) {
        text += ", in oneof " + message.oneof_decl(field.oneof_index()).name();
      }
      by_name_["field " + name + "." + field.name()] = text;
    }
    for (const DescriptorProto& nested : message.nested_type()) AddMessage(name + ".", nested);
    for (const EnumDescriptorProto& nested : message.enum_type()) AddEnum(name + ".", nested);
  }

  void AddEnum(const std::string& scope, const EnumDescriptorProto& an_enum) {
    const std::string name = scope + an_enum.name();
    by_name_["enum " + name];
    for (const EnumValueDescriptorProto& value : an_enum.value()) {
      by_name_["value " + name + "." + value.name()] = absl::StrCat("= ", value.number());
    }
  }

  void AddService(const std::string& scope, const ServiceDescriptorProto& service) {
    const std::string name = scope + service.name();
    by_name_["service " + name];
    for (const MethodDescriptorProto& method : service.method()) {
      by_name_["method " + name + "." + method.name()] = absl::StrCat(
          "(", method.client_streaming() ? "stream " : "", method.input_type(), ") returns (",
          method.server_streaming() ? "stream " : "", method.output_type(), ")");
    }
  }

  std::map<std::string, std::string> by_name_;
};

}  // namespace

std::vector<std::string> ProtoBreaks(const FileDescriptorSet& released,
                                     const FileDescriptorSet& current) {
  std::vector<std::string> breaks;
  const Elements now(current);
  const Elements before(released);
  for (const auto& [name, was] : before.by_name()) {
    const auto found = now.by_name().find(name);
    if (found == now.by_name().end()) {
      breaks.push_back(name + " is gone; was " + (was.empty() ? "there" : was));
    } else if (found->second != was) {
      breaks.push_back(name + " changed from " + was + " to " + found->second);
    }
  }
  return breaks;
}

}  // namespace sage::testing
