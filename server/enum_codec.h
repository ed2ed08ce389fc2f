// Element types, layouts and precisions of the wire.
#ifndef SAGE_SERVER_ENUM_CODEC_H_
#define SAGE_SERVER_ENUM_CODEC_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/attention.h"
#include "sage/v1/types.pb.h"

namespace sage::server {

// INVALID_ARGUMENT for other values, naming `field`.
absl::StatusOr<DType> DecodeDType(v1::DataType dtype, absl::string_view field);
absl::StatusOr<Layout> DecodeLayout(v1::Layout layout, absl::string_view field);
absl::StatusOr<Precision> DecodePrecision(v1::Precision precision, absl::string_view field);

}  // namespace sage::server

#endif  // SAGE_SERVER_ENUM_CODEC_H_
