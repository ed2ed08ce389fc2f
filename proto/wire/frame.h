// Messages of the data streams, read and written without copying their tensor bytes.
//
// AttendStreamRequest, AttendStreamResponse and their kin are a few small fields and one large
// `bytes data` (field 15). A frame is such a message in standard protobuf encoding, kept as the
// transport's slices: the small fields are parsed into the generated message, `data` is only
// located. Any field order and unknown fields are accepted, as protobuf does.
#ifndef SAGE_PROTO_WIRE_FRAME_H_
#define SAGE_PROTO_WIRE_FRAME_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "google/protobuf/message_lite.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/slice.h"

namespace sage {

// Number of the `data` field in every framed message.
inline constexpr int kFrameDataField = 15;

// Where a frame's `data` lies, in bytes from the start of its buffer.
struct FrameData {
  std::size_t offset = 0;
  std::size_t size = 0;
};

// Parses all fields but `data` into `small`. INVALID_ARGUMENT where the bytes are no protobuf
// message of this type. Where `data` occurs more than once, the last one counts.
absl::Status ParseFrame(const grpc::ByteBuffer& frame, google::protobuf::MessageLite* small,
                        FrameData* data);

// Hands over the pieces of `data` in order, as they lie in the transport's slices.
void VisitFrameData(const grpc::ByteBuffer& frame, FrameData data,
                    absl::FunctionRef<void(std::span<const std::byte>)> visit);

// Copies `data` to `destination`, of exactly data.size bytes, and returns its crc32c, or 0 where
// `with_crc` is false. The one copy that a received chunk undergoes.
std::uint32_t CopyFrameData(const grpc::ByteBuffer& frame, FrameData data,
                            std::span<std::byte> destination, bool with_crc);

// A frame of the fields of `small`, whose `data` is not set, followed by `data`, which is
// referenced and not copied. An empty slice leaves `data` out.
grpc::ByteBuffer MakeFrame(const google::protobuf::MessageLite& small, grpc::Slice data = {});

}  // namespace sage

#endif  // SAGE_PROTO_WIRE_FRAME_H_
