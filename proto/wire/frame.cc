#include "proto/wire/frame.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/wire_format_lite.h"
#include "grpcpp/support/proto_buffer_reader.h"
#include "proto/wire/crc32c.h"

namespace sage {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

constexpr std::uint32_t kDataTag =
    WireFormatLite::MakeTag(kFrameDataField, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);

absl::Status Malformed() {
  return absl::InvalidArgumentError("message: not a protobuf message of the expected type");
}

}  // namespace

absl::Status ParseFrame(const grpc::ByteBuffer& frame, google::protobuf::MessageLite* small,
                        FrameData* data) {
  *data = {};
  // Everything but `data`, byte for byte; small by contract, bounded by the transport's message
  // limit.
  std::string rest;
  grpc::ByteBuffer view(frame);  // shares the slices; a reader wants a mutable buffer
  grpc::ProtoBufferReader reader(&view);
  CodedInputStream input(&reader);
  google::protobuf::io::StringOutputStream rest_stream(&rest);
  CodedOutputStream output(&rest_stream);
  while (const std::uint32_t tag = input.ReadTag()) {
    if (tag != kDataTag) {
      if (!WireFormatLite::SkipField(&input, tag, &output)) return Malformed();
      continue;
    }
    int size = 0;
    if (!input.ReadVarintSizeAsInt(&size)) return Malformed();
    *data = {static_cast<std::size_t>(input.CurrentPosition()), static_cast<std::size_t>(size)};
    if (size > 0 && !input.Skip(size)) return Malformed();
  }
  if (!input.ConsumedEntireMessage() ||
      static_cast<std::size_t>(input.CurrentPosition()) != frame.Length()) {
    return Malformed();
  }
  output.Trim();
  return small->ParseFromString(rest) ? absl::OkStatus() : Malformed();
}

void VisitFrameData(const grpc::ByteBuffer& frame, FrameData data,
                    absl::FunctionRef<void(std::span<const std::byte>)> visit) {
  grpc::ByteBuffer view(frame);
  grpc::ProtoBufferReader reader(&view);
  reader.Skip(static_cast<int>(data.offset));
  const void* piece = nullptr;
  int piece_size = 0;
  while (data.size > 0 && reader.Next(&piece, &piece_size)) {
    const std::size_t size = std::min<std::size_t>(piece_size, data.size);
    visit({static_cast<const std::byte*>(piece), size});
    data.size -= size;
  }
}

std::uint32_t CopyFrameData(const grpc::ByteBuffer& frame, FrameData data,
                            std::span<std::byte> destination, bool with_crc) {
  std::uint32_t crc = 0;
  VisitFrameData(frame, data, [&](std::span<const std::byte> piece) {
    std::memcpy(destination.data(), piece.data(), piece.size());
    if (with_crc) crc = ExtendCrc32c(crc, destination.data(), piece.size());
    destination = destination.subspan(piece.size());
  });
  return crc;
}

grpc::ByteBuffer MakeFrame(const google::protobuf::MessageLite& small, grpc::Slice data) {
  std::string head = small.SerializeAsString();
  if (data.size() == 0) {
    const grpc::Slice only(head);
    return {&only, 1};
  }
  google::protobuf::io::StringOutputStream head_stream(&head);  // appends
  {
    CodedOutputStream output(&head_stream);
    output.WriteTag(kDataTag);
    output.WriteVarint32(static_cast<std::uint32_t>(data.size()));
  }
  const grpc::Slice slices[] = {grpc::Slice(head), std::move(data)};
  return {slices, 2};
}

}  // namespace sage
