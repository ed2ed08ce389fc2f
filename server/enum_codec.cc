#include "server/enum_codec.h"

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace sage::server {

absl::StatusOr<DType> DecodeDType(v1::DataType dtype, absl::string_view field) {
  switch (dtype) {
    case v1::DATA_TYPE_FLOAT16:
      return DType::kFloat16;
    case v1::DATA_TYPE_BFLOAT16:
      return DType::kBFloat16;
    case v1::DATA_TYPE_FLOAT32:
      return DType::kFloat32;
    default:
      return InvalidField(
          field, absl::StrCat("got ", v1::DataType_Name(dtype), " (", static_cast<int>(dtype),
                              "), allowed FLOAT16, BFLOAT16 and, for output, FLOAT32"));
  }
}

absl::StatusOr<Layout> DecodeLayout(v1::Layout layout, absl::string_view field) {
  switch (layout) {
    case v1::LAYOUT_HND:
      return Layout::kHnd;
    case v1::LAYOUT_NHD:
      return Layout::kNhd;
    default:
      return InvalidField(
          field, absl::StrCat("got ", static_cast<int>(layout), ", allowed HND (1), NHD (2)"));
  }
}

absl::StatusOr<Precision> DecodePrecision(v1::Precision precision, absl::string_view field) {
  switch (precision) {
    case v1::PRECISION_UNSPECIFIED:
    case v1::PRECISION_QK_INT8_PV_FP16:
      return Precision::kQkInt8PvFp16;
    case v1::PRECISION_QK_INT8_PV_FP8:
      return Precision::kQkInt8PvFp8;
    case v1::PRECISION_FP16:
      return Precision::kFp16;
    default:
      return InvalidField(field,
                          absl::StrCat("got ", static_cast<int>(precision), ", allowed 0 to 3"));
  }
}

}  // namespace sage::server
