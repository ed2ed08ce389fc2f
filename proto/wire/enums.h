// Names of element types and precisions, as kernels have them and as the wire has them.
#ifndef SAGE_PROTO_WIRE_ENUMS_H_
#define SAGE_PROTO_WIRE_ENUMS_H_

#include "kernels/attention.h"
#include "sage/v1/types.pb.h"

namespace sage {

v1::DataType ToProto(DType dtype);
v1::Precision ToProto(Precision precision);

}  // namespace sage

#endif  // SAGE_PROTO_WIRE_ENUMS_H_
