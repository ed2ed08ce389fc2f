// Resident tensors as the wire has them.
#ifndef SAGE_SERVER_TENSOR_CODEC_H_
#define SAGE_SERVER_TENSOR_CODEC_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/duration.pb.h"
#include "sage/v1/tensors.pb.h"
#include "server/resident_tensor.h"
#include "server/tensor_store.h"

namespace sage::server {

// The first message of a Put. Errors: INVALID_ARGUMENT naming the field, UNIMPLEMENTED for what is
// not served, FAILED_PRECONDITION for a mask larger than max_mask_bytes.
absl::StatusOr<PutSpec> DecodePut(const v1::PutRequest& request, std::uint64_t max_mask_bytes);

// Nothing where absent; INVALID_ARGUMENT where not positive.
absl::StatusOr<std::optional<std::chrono::milliseconds>> DecodeLease(
    bool present, const google::protobuf::Duration& lease, absl::string_view field);

// What a tensor is, without its lease; of a mask, all but the bits.
void ToProto(const ResidentTensor& tensor, v1::TensorSpec* spec);
void ToProto(std::chrono::milliseconds duration, google::protobuf::Duration* proto);

v1::TensorRole ToProto(TensorRole role);

}  // namespace sage::server

#endif  // SAGE_SERVER_TENSOR_CODEC_H_
