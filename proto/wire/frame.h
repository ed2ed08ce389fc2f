// Messages of the data RPCs, read and written without copying their tensor bytes.
//
// AttendRequest, AttendStreamRequest and their kin are a few small fields and large `bytes` fields.
// A frame is such a message in standard protobuf encoding, kept as the transport's slices: the
// small fields are parsed into the generated message, the large ones are only located. Any field
// order and unknown fields are accepted, as protobuf does.
#ifndef SAGE_PROTO_WIRE_FRAME_H_
#define SAGE_PROTO_WIRE_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"

namespace sage {

// Number of the `data` field in every message of a stream.
inline constexpr int kFrameDataField = 15;

// A large field, and where it lies in bytes from the start of its frame; size 0 where it is absent.
struct FrameData {
  int field = kFrameDataField;
  std::size_t offset = 0;
  std::size_t size = 0;
};

// Parses all fields into `small` but those named in `large`, which are located. INVALID_ARGUMENT
// where the bytes are no protobuf message of this type. Where a large field occurs more than once,
// the last one counts.
absl::Status ParseFrame(const grpc::ByteBuffer& frame, google::protobuf::MessageLite* small,
                        std::span<FrameData> large);

// Reads a located field as it lies in the transport's slices, which it shares; from its start on
// unless told otherwise.
class FrameReader {
 public:
  FrameReader(const grpc::ByteBuffer& frame, FrameData data);

  // The next stretch of at most `limit` bytes, not empty before the end of the field.
  std::span<const std::byte> Next(std::size_t limit);

  // Copies the next bytes, as many as `destination` holds, of which there must be that many.
  // Returns their crc32c, or 0 where `with_crc` is false. The one copy that payload undergoes.
  std::uint32_t CopyTo(std::span<std::byte> destination, bool with_crc = false) {
    return CopyTo(std::span(&destination, 1), with_crc);
  }
  // The same to several places, one after another.
  std::uint32_t CopyTo(std::span<const std::span<std::byte>> destinations, bool with_crc = false);

  std::size_t left() const { return left_; }

  // Goes to byte `position` of the field.
  void Seek(std::size_t position);

 private:
  const FrameData data_;
  std::vector<grpc::Slice> slices_;
  std::size_t slice_ = 0;   // the next byte's
  std::size_t within_ = 0;  // its place in that slice
  std::size_t left_;
};

// A large field to be written: its content, slice by slice, referenced and not copied.
struct FramePart {
  int field = kFrameDataField;
  std::vector<grpc::Slice> slices;
};

// A frame of the fields of `small`, in which no large field is set, followed by `parts`. Those
// without content are left out.
grpc::ByteBuffer MakeFrame(const google::protobuf::MessageLite& small,
                           std::span<const FramePart> parts);

// The same with one part, `data`.
grpc::ByteBuffer MakeFrame(const google::protobuf::MessageLite& small, grpc::Slice data = {});

}  // namespace sage

#endif  // SAGE_PROTO_WIRE_FRAME_H_
