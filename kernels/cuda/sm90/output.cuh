// Writing the rows of a tile. They leave by way of shared memory: what threads have of a row is two
// channels here and there.
#ifndef SAGE_KERNELS_CUDA_SM90_OUTPUT_CUH_
#define SAGE_KERNELS_CUDA_SM90_OUTPUT_CUH_

#include <cstdint>

#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/sm90/storage.cuh"

namespace sage::cuda::sm90 {

// The 16 rows of a warp, from row `first_row` of the tile on. Reads the context once: for all that
// the compiler knows, a store changes it.
template <typename Policy>
class OutputRows {
 public:
  __device__ __forceinline__ OutputRows(SharedStorage<Policy>& storage, const ItemContext& context,
                                        int first_row)
      : staged_(storage.out[ptx::ThreadIndex() % (kConsumerWarps * 32) / 32]),
        out_(context.out + first_row * context.out_row_stride_bytes),
        stride_(context.out_row_stride_bytes),
        rows_(min(context.rows - first_row, 16)),
        channels_(context.head_dim),
        type_(context.output_type) {
    if constexpr (Policy::kE4m3Values) {
      scales_ = context.v_scales + ptx::ThreadIndex() % 4 * 2;
      means_ = context.v_means + ptx::ThreadIndex() % 4 * 2;
    }
  }

  // `sums` as products leave them, `inverse` what the sums of this thread's two rows are to be
  // multiplied by. 0 makes zeros of whatever e4m3 ones are; 16-bit values' are zeros then.
  __device__ __forceinline__ void Write(const float (&sums)[Policy::kSums],
                                        const float (&inverse)[2]) const {
    switch (type_) {
      case ElementType::kFloat16:
        return WriteAs<__half>(sums, inverse);
      case ElementType::kBFloat16:
        return WriteAs<__nv_bfloat16>(sums, inverse);
      case ElementType::kFloat32:
        return WriteAs<float>(sums, inverse);
    }
  }

 private:
  template <typename Output>
  __device__ __forceinline__ void WriteAs(const float (&sums)[Policy::kSums],
                                          const float (&inverse)[2]) const {
    constexpr int kBytes = static_cast<int>(sizeof(Output));
    constexpr int kPieceChannels = Policy::kOutRowBytes / kBytes;
    const int lane = ptx::ThreadIndex() % 32;
    std::uint8_t* const staged = staged_ + lane / 4 * Policy::kOutPitch + lane % 4 * 2 * kBytes;
#pragma unroll
    for (int first = 0; first < Policy::kHeadDim; first += kPieceChannels) {
#pragma unroll
      for (int channel = first; channel < first + kPieceChannels; channel += 8) {
        float2 scale = make_float2(1.0F, 1.0F);
        float2 mean = make_float2(0.0F, 0.0F);
        if constexpr (Policy::kE4m3Values) {
          scale = __ldg(reinterpret_cast<const float2*>(scales_ + channel));
          mean = __ldg(reinterpret_cast<const float2*>(means_ + channel));
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float x = sums[channel / 2 + 2 * half] * inverse[half];
          float y = sums[channel / 2 + 2 * half + 1] * inverse[half];
          if constexpr (Policy::kE4m3Values) {
            x = fmaf(x, scale.x, mean.x);
            y = fmaf(y, scale.y, mean.y);
          }
          // Elsewhere empty rows' sums are zeros already.
          if (Policy::kE4m3Values && inverse[half] == 0.0F) x = y = 0.0F;
          void* const to = staged + half * 8 * Policy::kOutPitch + (channel - first) * kBytes;
          if constexpr (kBytes == 4) {
            *static_cast<float2*>(to) = make_float2(x, y);
          } else {
            *static_cast<std::uint32_t*>(to) = ptx::Pack<Output>(x, y);
          }
        }
      }
      __syncwarp();
      SendPiece(first * kBytes, min(channels_ - first, kPieceChannels) * kBytes);
      __syncwarp();
    }
  }

  // Stores what is staged, `bytes` of every row, `offset` from its begin. All is loaded before the
  // first is stored: nobody waits for it row by row.
  __device__ __forceinline__ void SendPiece(int offset, int bytes) const {
    constexpr int kVectors = Policy::kOutRowBytes / 16;
    constexpr int kRows = 32 / kVectors;  // at once
    const int lane = ptx::ThreadIndex() % 32;
    const int row = lane / kVectors;
    const int at = lane % kVectors * 16;
    const std::uint8_t* const from = staged_ + row * Policy::kOutPitch + at;
    uint4 vectors[16 / kRows];
#pragma unroll
    for (int i = 0; i < 16 / kRows; ++i) {
      vectors[i] = *reinterpret_cast<const uint4*>(from + i * kRows * Policy::kOutPitch);
    }
    const int rows = at < bytes ? rows_ - row : 0;  // that exist from this thread's first on
    std::uint8_t* to = out_ + row * stride_ + offset + at;
#pragma unroll
    for (int i = 0; i < 16 / kRows; ++i, to += kRows * stride_) {
      if (i * kRows < rows) *reinterpret_cast<uint4*>(to) = vectors[i];
    }
  }

  std::uint8_t* const staged_;
  std::uint8_t* const out_;
  const std::int64_t stride_;
  const int rows_;  // that exist, negative where even the first lies past the end
  const int channels_;
  const ElementType type_;
  const float* scales_;  // of e4m3 values, from this thread's first channel on, and their means
  const float* means_;
};

}  // namespace sage::cuda::sm90

#endif  // SAGE_KERNELS_CUDA_SM90_OUTPUT_CUH_
