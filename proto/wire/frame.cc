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

std::uint32_t TagOf(int field) {
  return WireFormatLite::MakeTag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
}

absl::Status Malformed() {
  return absl::InvalidArgumentError("message: not a protobuf message of the expected type");
}

}  // namespace

absl::Status ParseFrame(const grpc::ByteBuffer& frame, google::protobuf::MessageLite* small,
                        std::span<FrameData> large) {
  for (FrameData& data : large) data = {.field = data.field};
  // All other fields, byte for byte; small by contract, bounded by the transport's message limit.
  std::string rest;
  grpc::ByteBuffer view(frame);  // shares the slices; a reader wants a mutable buffer
  grpc::ProtoBufferReader reader(&view);
  CodedInputStream input(&reader);
  google::protobuf::io::StringOutputStream rest_stream(&rest);
  CodedOutputStream output(&rest_stream);
  while (const std::uint32_t tag = input.ReadTag()) {
    const auto data = std::find_if(large.begin(), large.end(),
                                   [tag](const FrameData& d) { return TagOf(d.field) == tag; });
    if (data == large.end()) {
      if (!WireFormatLite::SkipField(&input, tag, &output)) return Malformed();
      continue;
    }
    int size = 0;
    if (!input.ReadVarintSizeAsInt(&size)) return Malformed();
    data->offset = static_cast<std::size_t>(input.CurrentPosition());
    data->size = static_cast<std::size_t>(size);
    if (size > 0 && !input.Skip(size)) return Malformed();
  }
  if (!input.ConsumedEntireMessage() ||
      static_cast<std::size_t>(input.CurrentPosition()) != frame.Length()) {
    return Malformed();
  }
  output.Trim();
  return small->ParseFromString(rest) ? absl::OkStatus() : Malformed();
}

FrameReader::FrameReader(const grpc::ByteBuffer& frame, FrameData data)
    : data_(data), within_(data.offset), left_(data.size) {
  // Never fails: data RPCs do not compress, and other frames cannot be parsed.
  static_cast<void>(frame.Dump(&slices_));
}

void FrameReader::Seek(std::size_t position) {
  const std::size_t now = data_.size - left_;
  if (position < now) {
    slice_ = 0;
    within_ = data_.offset + position;
  } else {
    within_ += position - now;
  }
  left_ = data_.size - position;
}

std::span<const std::byte> FrameReader::Next(std::size_t limit) {
  if (left_ == 0) return {};
  while (within_ >= slices_[slice_].size()) within_ -= slices_[slice_++].size();
  const grpc::Slice& slice = slices_[slice_];
  const std::size_t size = std::min({limit, left_, slice.size() - within_});
  const auto* const begin = reinterpret_cast<const std::byte*>(slice.begin()) + within_;
  within_ += size;
  left_ -= size;
  return {begin, size};
}

std::uint32_t FrameReader::CopyTo(std::span<const std::span<std::byte>> destinations,
                                  bool with_crc) {
  std::uint32_t crc = 0;
  for (std::span<std::byte> destination : destinations) {
    while (!destination.empty()) {
      const std::span<const std::byte> piece = Next(destination.size());
      std::memcpy(destination.data(), piece.data(), piece.size());
      if (with_crc) crc = ExtendCrc32c(crc, destination.data(), piece.size());
      destination = destination.subspan(piece.size());
    }
  }
  return crc;
}

grpc::ByteBuffer MakeFrame(const google::protobuf::MessageLite& small,
                           std::span<const FramePart> parts) {
  std::vector<grpc::Slice> slices;
  std::string head = small.SerializeAsString();
  for (const FramePart& part : parts) {
    std::size_t size = 0;
    for (const grpc::Slice& slice : part.slices) size += slice.size();
    if (size == 0) continue;
    {
      google::protobuf::io::StringOutputStream head_stream(&head);  // appends
      CodedOutputStream output(&head_stream);
      output.WriteTag(TagOf(part.field));
      output.WriteVarint32(static_cast<std::uint32_t>(size));
    }
    slices.emplace_back(head);
    head.clear();
    slices.insert(slices.end(), part.slices.begin(), part.slices.end());
  }
  if (!head.empty() || slices.empty()) slices.emplace_back(head);
  return {slices.data(), slices.size()};
}

grpc::ByteBuffer MakeFrame(const google::protobuf::MessageLite& small, grpc::Slice data) {
  const FramePart part{kFrameDataField, {std::move(data)}};
  return MakeFrame(small, std::span(&part, 1));
}

}  // namespace sage
