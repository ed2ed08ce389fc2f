// The first messages of data calls, from bytes in slices to checked requests.
#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "proto/wire/frame.h"
#include "sage/v1/attention.pb.h"
#include "sage/v1/tensors.pb.h"
#include "server/codec.h"
#include "server/tensor_codec.h"
#include "tests/fuzz/byte_source.h"
#include "tests/fuzz/device.h"
#include "tests/fuzz/targets.h"

namespace sage::fuzz {
namespace {

constexpr std::uint64_t kMaxMaskBytes = 1 << 20;

grpc::ByteBuffer InSlices(Input bytes, std::size_t slice_bytes) {
  std::vector<grpc::Slice> slices;
  while (!bytes.empty()) {
    const Input some = bytes.first(std::min(slice_bytes, bytes.size()));
    slices.emplace_back(some.data(), some.size());
    bytes = bytes.subspan(some.size());
  }
  return {slices.data(), slices.size()};
}

// Located bytes lie within the frame, and can be read.
void CheckReadable(const grpc::ByteBuffer& frame, const FrameData& data) {
  Promise(data.offset + data.size <= frame.Length(), "a field lies within its frame");
  FrameReader reader(frame, data);
  std::vector<std::byte> content(data.size);
  reader.CopyTo(content, true);
  Promise(reader.left() == 0, "a field is as long as it was found to be");
}

void Decode(const v1::AttendHeader& header) {
  static server::Tenants tenants{{}};
  static server::Admission admission{64 << 20, 4};
  static server::TensorStore store({}, tenants, admission, {&SharedDevice()});
  const std::string tenant = "fuzz";
  const std::string server_id = "here";
  auto spec = server::DecodeHeader(header, kMaxMaskBytes, {store, tenant, server_id});
  if (!spec.ok()) return;
  Promise(ValidateProblem(spec->problem).ok(), "a decoded problem is valid");
  if (spec->make_mask) static_cast<void>(spec->make_mask());
}

}  // namespace

void Header(Input input) {
  ByteSource source(input);
  const std::uint8_t kind = source.Byte();
  const grpc::ByteBuffer frame = InSlices(source.Rest(), 1 + (kind >> 2));
  std::array<FrameData, 1> data;
  if (kind % 4 == 0) {
    v1::PutRequest request;
    if (!ParseFrame(frame, &request, data).ok()) return;
    CheckReadable(frame, data[0]);
    const auto spec = server::DecodePut(request, kMaxMaskBytes);
    if (spec.ok() && spec->make_mask) static_cast<void>(spec->make_mask());
  } else if (kind % 4 == 1) {
    v1::AttendRequest request;
    std::array<FrameData, 3> tensors = {{{.field = 2}, {.field = 3}, {.field = 4}}};
    if (!ParseFrame(frame, &request, tensors).ok()) return;
    for (const FrameData& tensor : tensors) CheckReadable(frame, tensor);
    Decode(request.header());
  } else {
    v1::AttendStreamRequest request;
    if (!ParseFrame(frame, &request, data).ok()) return;
    CheckReadable(frame, data[0]);
    Decode(request.header());
  }
}

}  // namespace sage::fuzz
