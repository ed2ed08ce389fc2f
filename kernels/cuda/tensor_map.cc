#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include <array>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_status.h"

namespace sage::cuda {
namespace {

using EncodeFunction = decltype(&cuTensorMapEncodeTiled);

// The driver's function, without linking to the driver: programs start where there is none.
absl::StatusOr<EncodeFunction> FindEncode() {
  constexpr unsigned kSince = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             kSince, cudaEnableDefault, &found);
  if (error != cudaSuccess) return ToStatus(error, "looking for cuTensorMapEncodeTiled");
  if (found != cudaDriverEntryPointSuccess) {
    return absl::UnavailableError("the driver has no cuTensorMapEncodeTiled");
  }
  return reinterpret_cast<EncodeFunction>(function);
}

}  // namespace

absl::StatusOr<CUtensorMap> MakeTensorMap(const DeviceHeads& heads, DType dtype,
                                          std::int64_t num_heads, std::int64_t rows,
                                          std::int64_t head_dim) {
  static const absl::StatusOr<EncodeFunction> encode = FindEncode();
  if (!encode.ok()) return encode.status();
  const std::array<cuuint64_t, 3> sizes = {static_cast<cuuint64_t>(head_dim),
                                           static_cast<cuuint64_t>(rows),
                                           static_cast<cuuint64_t>(num_heads)};
  // Where there is one row or one head, its stride is nobody's and may be anything.
  const std::int64_t row_stride = rows == 1 ? head_dim * 2 : heads.row_stride_bytes;
  const std::int64_t head_stride = num_heads == 1 ? rows * row_stride : heads.head_stride_bytes;
  const std::array<cuuint64_t, 2> strides = {static_cast<cuuint64_t>(row_stride),
                                             static_cast<cuuint64_t>(head_stride)};
  const std::array<cuuint32_t, 3> box = {kBoxChannels, kBlockKeys, 1};
  const std::array<cuuint32_t, 3> element_strides = {1, 1, 1};
  CUtensorMap map;
  const CUresult result = (*encode)(
      &map,
      dtype == DType::kFloat16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      sizes.size(), heads.data, sizes.data(), strides.data(), box.data(), element_strides.data(),
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    return absl::InvalidArgumentError(
        absl::StrCat("the copy engine cannot address a tensor of ", num_heads, " heads, ", rows,
                     " rows and ", head_dim, " channels with strides of ", heads.head_stride_bytes,
                     " and ", heads.row_stride_bytes, " bytes"));
  }
  return map;
}

}  // namespace sage::cuda
