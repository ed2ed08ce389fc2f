// Frames: any protobuf encoding is read, however the transport has cut it, and tensor bytes are
// referenced, never copied, when one is written.
#include "proto/wire/frame.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "proto/wire/crc32c.h"
#include "sage/v1/attention.pb.h"

namespace sage {
namespace {

// `bytes` in slices of `size`.
grpc::ByteBuffer Cut(const std::string& bytes, std::size_t size) {
  std::vector<grpc::Slice> slices;
  for (std::size_t at = 0; at < bytes.size(); at += size) {
    slices.emplace_back(bytes.substr(at, size));
  }
  return {slices.data(), slices.size()};
}

std::string Joined(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

std::string Content(const grpc::ByteBuffer& frame, FrameData data) {
  std::string content(data.size, '?');
  FrameReader reader(frame, data);
  const std::uint32_t crc = reader.CopyTo(std::as_writable_bytes(std::span(content)), true);
  EXPECT_EQ(crc, ExtendCrc32c(0, content.data(), content.size()));
  EXPECT_EQ(reader.left(), 0U);
  EXPECT_TRUE(reader.Next(1).empty());
  return content;
}

v1::AttendRequest Message() {
  v1::AttendRequest message;
  message.mutable_header()->set_request_id("r");
  message.set_q("queries");
  message.set_k(std::string(300, 'k'));
  message.set_v("values");
  return message;
}

std::array<FrameData, 3> Tensors() { return {{{.field = 2}, {.field = 3}, {.field = 4}}}; }

TEST(FrameTest, ReadsLargeFieldsHoweverTheTransportHasCutThem) {
  const v1::AttendRequest message = Message();
  const std::string bytes = message.SerializeAsString();
  for (std::size_t size = 1; size <= bytes.size(); ++size) {
    SCOPED_TRACE(size);
    const grpc::ByteBuffer frame = Cut(bytes, size);
    v1::AttendRequest small;
    std::array<FrameData, 3> tensors = Tensors();
    ASSERT_TRUE(ParseFrame(frame, &small, tensors).ok());
    EXPECT_EQ(small.header().request_id(), "r");
    EXPECT_TRUE(small.q().empty() && small.k().empty() && small.v().empty());
    EXPECT_EQ(Content(frame, tensors[0]), message.q());
    EXPECT_EQ(Content(frame, tensors[1]), message.k());
    EXPECT_EQ(Content(frame, tensors[2]), message.v());
  }
}

TEST(FrameTest, SeeksBothWays) {
  v1::AttendRequest message = Message();
  message.set_k("0123456789");
  v1::AttendRequest small;
  std::array<FrameData, 3> tensors = Tensors();
  const grpc::ByteBuffer frame = Cut(message.SerializeAsString(), 3);
  ASSERT_TRUE(ParseFrame(frame, &small, tensors).ok());
  FrameReader reader(frame, tensors[1]);
  for (const std::size_t position : {4, 5, 0, 9, 1, 2}) {
    std::byte got{};
    reader.Seek(position);
    reader.CopyTo({&got, 1});
    EXPECT_EQ(static_cast<char>(got), static_cast<char>('0' + position));
    EXPECT_EQ(reader.left(), 9 - position);
  }
}

TEST(FrameTest, TakesAnyFieldOrderAndTheLastOfARepeatedField) {
  v1::AttendRequest v, q, again, header;
  v.set_v("values");
  q.set_q("lost");
  again.set_q("queries");
  *header.mutable_header() = Message().header();
  const grpc::ByteBuffer frame = Cut(v.SerializeAsString() + q.SerializeAsString() +
                                         header.SerializeAsString() + again.SerializeAsString(),
                                     5);
  v1::AttendRequest small;
  std::array<FrameData, 3> tensors = Tensors();
  ASSERT_TRUE(ParseFrame(frame, &small, tensors).ok());
  EXPECT_EQ(small.header().request_id(), "r");
  EXPECT_EQ(Content(frame, tensors[0]), "queries");
  EXPECT_EQ(tensors[1].size, 0U);
  EXPECT_EQ(Content(frame, tensors[2]), "values");
}

TEST(FrameTest, RefusesWhatIsNoMessage) {
  const std::string bytes = Message().SerializeAsString();
  v1::AttendRequest small;
  std::array<FrameData, 3> tensors = Tensors();
  // Cut off within a field: everywhere but where one ends.
  int whole = 0;
  for (std::size_t size = 1; size < bytes.size(); ++size) {
    const absl::Status status = ParseFrame(Cut(bytes.substr(0, size), 7), &small, tensors);
    whole += static_cast<int>(status.ok());
  }
  EXPECT_EQ(whole, 3);  // after header, q and k
  // A length past any message, a bad tag, an end of group.
  for (const char* garbage : {"\x12\xff\xff\xff\xff\x7f", "\x07\x01", "\x0c"}) {
    EXPECT_FALSE(ParseFrame(Cut(garbage, 1), &small, tensors).ok());
  }
}

TEST(FrameTest, ReferencesTheBytesItIsGiven) {
  std::string q = "queries", k1 = "ke", k2 = "ys";
  int released = 0;
  const auto slice = [&released](std::string& bytes) {
    return grpc::Slice(
        bytes.data(), bytes.size(), [](void* count) { ++*static_cast<int*>(count); }, &released);
  };
  {
    v1::AttendRequest small;
    *small.mutable_header() = Message().header();
    std::array<FramePart, 3> parts = {FramePart{2, {slice(q)}}, FramePart{4, {}},
                                      FramePart{3, {slice(k1), slice(k2)}}};
    const grpc::ByteBuffer frame = MakeFrame(small, parts);
    parts = {};
    std::vector<grpc::Slice> slices;
    ASSERT_TRUE(frame.Dump(&slices).ok());
    ASSERT_EQ(slices.size(), 5U);  // header and a tag, q, a tag, both parts of k
    EXPECT_EQ(static_cast<const void*>(slices[1].begin()), q.data());
    EXPECT_EQ(static_cast<const void*>(slices[3].begin()), k1.data());
    EXPECT_EQ(static_cast<const void*>(slices[4].begin()), k2.data());
    v1::AttendRequest read;
    ASSERT_TRUE(read.ParseFromString(Joined(frame)));
    EXPECT_EQ(read.header().request_id(), "r");
    EXPECT_EQ(read.q(), "queries");
    EXPECT_EQ(read.k(), "keys");
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 3);
}

TEST(FrameTest, WritesAnEmptyMessage) {
  EXPECT_EQ(MakeFrame(v1::AttendStreamRequest()).Length(), 0U);
}

}  // namespace
}  // namespace sage
