#include "proto/wire/enums.h"

namespace sage {

v1::Precision ToProto(Precision precision) {
  switch (precision) {
    case Precision::kQkInt8PvFp16:
      return v1::PRECISION_QK_INT8_PV_FP16;
    case Precision::kQkInt8PvFp8:
      return v1::PRECISION_QK_INT8_PV_FP8;
    case Precision::kFp16:
      return v1::PRECISION_FP16;
  }
  return v1::PRECISION_UNSPECIFIED;
}

v1::DataType ToProto(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      return v1::DATA_TYPE_FLOAT16;
    case DType::kBFloat16:
      return v1::DATA_TYPE_BFLOAT16;
    case DType::kFloat32:
      return v1::DATA_TYPE_FLOAT32;
  }
  return v1::DATA_TYPE_UNSPECIFIED;
}

}  // namespace sage
