// What a new version of .proto files breaks for clients and servers built from an old one.
#ifndef SAGE_TESTS_PROTO_COMPAT_PROTO_COMPAT_H_
#define SAGE_TESTS_PROTO_COMPAT_PROTO_COMPAT_H_

#include <string>
#include <vector>

#include "google/protobuf/descriptor.pb.h"

namespace sage::testing {

// One line for each break, naming the element and what changed: a message, field, enum, value,
// service or method that is gone or renamed; a field whose number, type, label or oneof changed; a
// value whose number changed; a method whose messages or streaming changed. Additions are no break.
std::vector<std::string> ProtoBreaks(const google::protobuf::FileDescriptorSet& released,
                                     const google::protobuf::FileDescriptorSet& current);

}  // namespace sage::testing

#endif  // SAGE_TESTS_PROTO_COMPAT_PROTO_COMPAT_H_
