// Writing rows of the output.
#ifndef SAGE_KERNELS_CUDA_SM80_STORE_VECTOR_CUH_
#define SAGE_KERNELS_CUDA_SM80_STORE_VECTOR_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/device_task.h"
#include "kernels/cuda/ptx/math.cuh"

namespace sage::cuda::sm80 {

template <typename Output>
__device__ __forceinline__ void StoreHalves(std::uint8_t* row, int vector, const float (&x)[8]) {
  reinterpret_cast<uint4*>(row)[vector] =
      make_uint4(ptx::Pack<Output>(x[0], x[1]), ptx::Pack<Output>(x[2], x[3]),
                 ptx::Pack<Output>(x[4], x[5]), ptx::Pack<Output>(x[6], x[7]));
}

// Channels [8 vector, 8 vector + 8) of a row of the output.
__device__ __forceinline__ void StoreVector(std::uint8_t* row, int vector, ElementType type,
                                            const float (&x)[8]) {
  if (type == ElementType::kFloat32) {
    float4* const to = reinterpret_cast<float4*>(row) + vector * 2;
    to[0] = make_float4(x[0], x[1], x[2], x[3]);
    to[1] = make_float4(x[4], x[5], x[6], x[7]);
  } else if (type == ElementType::kFloat16) {
    StoreHalves<__half>(row, vector, x);
  } else {
    StoreHalves<__nv_bfloat16>(row, vector, x);
  }
}

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_STORE_VECTOR_CUH_
