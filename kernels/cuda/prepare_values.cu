// Quantisation of V to e4m3: three passes, two of which read V.
//
//   1. sum, least and largest of every channel of 64-token blocks: a thread has eight channels of
//      one block
//   2. those of the head, and from them mean and scale: a thread a channel. The range less the mean
//      rounds as each element less the mean does, so no third look at V is needed.
//   3. centre, scale, round, transpose: a thread has eight channels of four keys, which make up a
//      word each
//
// What pass 1 finds waits in the room of the block's own bytes, which pass 3 overwrites.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/e4m3_order.cuh"
#include "kernels/cuda/prepare_values.h"
#include "kernels/cuda/ptx/math.cuh"
#include "kernels/cuda/sage1.cuh"
#include "kernels/cuda/swizzled_tile.cuh"

namespace sage::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kVector = 8;  // channels of a 16-byte load
constexpr int kRowsInFlight = 16;
constexpr int kBlocksInFlight = 16;
constexpr int kKeysPerWord = 4;
constexpr float kInfinity = __builtin_huge_valf();
constexpr float kZeroThreshold = 0x1p-100F;  // a channel within this of its mean is its mean
static_assert(3 * sizeof(float) <= kBlockKeys, "statistics fit where their block's bytes will lie");

__device__ __forceinline__ int Blocks(const PrepareValuesArgs& args) {
  return (args.length_k + kBlockKeys - 1) / kBlockKeys;
}

__device__ __forceinline__ std::uint8_t* BlockBytes(const PrepareValuesArgs& args,
                                                    std::int64_t block_index) {
  return args.v8 + block_index * kBlockKeys * args.padded_dim;
}

// Statistics of a block: sums, then least, then largest elements, padded_dim floats each.
__device__ __forceinline__ float* BlockStatistics(const PrepareValuesArgs& args,
                                                  std::int64_t block_index) {
  return reinterpret_cast<float*>(BlockBytes(args, block_index));
}

template <typename Element>
__global__ void __launch_bounds__(kThreads) GatherStatistics(const PrepareValuesArgs args) {
  const int vectors = args.head_dim / kVector;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t block_index = index / vectors;
  const int vector = static_cast<int>(index % vectors);
  const std::int64_t head = block_index / Blocks(args);
  const std::int64_t block = block_index % Blocks(args);
  if (head >= args.num_heads) return;
  const int rows = static_cast<int>(
      min(args.length_k - block * kBlockKeys, static_cast<std::int64_t>(kBlockKeys)));
  const std::uint8_t* source = args.v.data + head * args.v.head_stride_bytes +
                               block * kBlockKeys * args.v.row_stride_bytes + vector * 16;
  float sum[kVector];
  float least[kVector];
  float largest[kVector];
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    sum[j] = 0.0F;
    least[j] = kInfinity;
    largest[j] = -kInfinity;
  }
  for (int first = 0; first < rows; first += kRowsInFlight) {
    uint4 words[kRowsInFlight];
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      if (first + i < rows) {
        words[i] =
            __ldg(reinterpret_cast<const uint4*>(source + (first + i) * args.v.row_stride_bytes));
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      if (first + i >= rows) break;
      const std::uint32_t pairs[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        const float2 pair = Widen<Element>(pairs[j / 2]);
        const float x = j % 2 == 0 ? pair.x : pair.y;
        if (!IsFinite(x)) continue;
        sum[j] += x;
        least[j] = fminf(least[j], x);
        largest[j] = fmaxf(largest[j], x);
      }
    }
  }
  float* const out = BlockStatistics(args, block_index) + vector * kVector;
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    out[j] = sum[j];
    out[args.padded_dim + j] = least[j];
    out[2 * args.padded_dim + j] = largest[j];
  }
}

// One thread block a head, one thread a channel.
__global__ void ComputeScales(const PrepareValuesArgs args) {
  const std::int64_t head = blockIdx.x;
  const int channel = static_cast<int>(threadIdx.x);
  float mean = 0.0F;
  float scale = 0.0F;
  if (channel < args.head_dim) {
    const int blocks = Blocks(args);
    const float* source = BlockStatistics(args, head * blocks) + channel;
    const std::int64_t stride = static_cast<std::int64_t>(kBlockKeys) * args.padded_dim / 4;
    float sum = 0.0F;
    float least = kInfinity;
    float largest = -kInfinity;
    for (int first = 0; first < blocks; first += kBlocksInFlight) {
      float found[kBlocksInFlight][3];
#pragma unroll
      for (int i = 0; i < kBlocksInFlight; ++i) {
        if (first + i >= blocks) break;
#pragma unroll
        for (int part = 0; part < 3; ++part) {
          found[i][part] = source[(first + i) * stride + part * args.padded_dim];
        }
      }
#pragma unroll
      for (int i = 0; i < kBlocksInFlight; ++i) {
        if (first + i >= blocks) break;
        sum += found[i][0];
        least = fminf(least, found[i][1]);
        largest = fmaxf(largest, found[i][2]);
      }
    }
    mean = sum / static_cast<float>(max(args.length_k, 1));
    float magnitude = fmaxf(largest - mean, mean - least);
    if (!IsFinite(magnitude)) {  // the sum overflowed, or no element is finite
      mean = 0.0F;
      magnitude = largest < least ? 0.0F : fmaxf(largest, -least);
    }
    scale = magnitude < kZeroThreshold ? 0.0F : magnitude / args.range;
  }
  args.means[head * args.padded_dim + channel] = mean;
  args.scales[head * args.padded_dim + channel] = scale;
}

// What centred elements are multiplied by.
__device__ __forceinline__ float Factor(float scale) { return scale == 0.0F ? 0.0F : 1.0F / scale; }

template <typename Element, int kPaddedDim>
__global__ void __launch_bounds__(kThreads) QuantizeBlocks(const PrepareValuesArgs args) {
  constexpr int kWordsPerChannel = kBlockKeys / kKeysPerWord;
  constexpr int kVectorStep = kThreads / kWordsPerChannel;
  // The last come first: L2 still has them from the first pass.
  const std::int64_t block_index = gridDim.x - 1 - blockIdx.x;
  const std::int64_t head = block_index / Blocks(args);
  const std::int64_t block = block_index % Blocks(args);
  const int word = static_cast<int>(threadIdx.x) % kWordsPerChannel;
  std::int64_t keys[kKeysPerWord];
#pragma unroll
  for (int i = 0; i < kKeysPerWord; ++i) {
    const std::uint32_t slot = word * kKeysPerWord + i;
    keys[i] = block * kBlockKeys + slot / 16 * 16 + KeyOfE4m3Slot(slot % 16);
  }
  std::uint8_t* const target = BlockBytes(args, block_index);
#pragma unroll
  for (int first = 0; first < kPaddedDim / kVector; first += kVectorStep) {
    const int vector = first + static_cast<int>(threadIdx.x) / kWordsPerChannel;
    const bool in_head = vector * kVector < args.head_dim;
    uint4 words[kKeysPerWord];
#pragma unroll
    for (int i = 0; i < kKeysPerWord; ++i) {
      words[i] = make_uint4(0, 0, 0, 0);
      if (in_head && keys[i] < args.length_k) {
        words[i] =
            __ldg(reinterpret_cast<const uint4*>(args.v.data + head * args.v.head_stride_bytes +
                                                 keys[i] * args.v.row_stride_bytes + vector * 16));
      }
    }
    float means[kVector];
    float factors[kVector];
#pragma unroll
    for (int j = 0; j < kVector; j += 4) {
      const std::int64_t at = head * kPaddedDim + vector * kVector + j;
      const float4 mean = __ldg(reinterpret_cast<const float4*>(args.means + at));
      const float4 scale = __ldg(reinterpret_cast<const float4*>(args.scales + at));
      means[j] = mean.x, means[j + 1] = mean.y, means[j + 2] = mean.z, means[j + 3] = mean.w;
      factors[j] = Factor(scale.x), factors[j + 1] = Factor(scale.y);
      factors[j + 2] = Factor(scale.z), factors[j + 3] = Factor(scale.w);
    }
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const int channel = vector * kVector + j;
      float scaled[kKeysPerWord];
#pragma unroll
      for (int i = 0; i < kKeysPerWord; ++i) {
        const std::uint32_t pairs[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
        const float2 pair = Widen<Element>(pairs[j / 2]);
        const float x = j % 2 == 0 ? pair.x : pair.y;
        const bool exists = in_head && keys[i] < args.length_k;
        scaled[i] = !exists       ? 0.0F
                    : IsFinite(x) ? (x - means[j]) * factors[j]
                                  : __uint_as_float(0x7fc00000U);
      }
      *reinterpret_cast<std::uint32_t*>(
          target + SwizzledTile<kBlockKeys>::Offset(channel, word / 4) + word % 4 * 4) =
          ptx::PackE4m3(scaled[0], scaled[1], scaled[2], scaled[3]);
    }
  }
}

template <typename Element>
cudaError_t Launch(const PrepareValuesArgs& args, cudaStream_t stream) {
  const std::int64_t blocks = (args.length_k + kBlockKeys - 1) / kBlockKeys * args.num_heads;
  const std::int64_t threads = blocks * (args.head_dim / kVector);
  if (blocks > 0) {
    GatherStatistics<Element>
        <<<static_cast<unsigned>((threads + kThreads - 1) / kThreads), kThreads, 0, stream>>>(args);
  }
  ComputeScales<<<static_cast<unsigned>(args.num_heads), args.padded_dim, 0, stream>>>(args);
  if (blocks > 0) {
    const auto quantize =
        args.padded_dim == 64 ? QuantizeBlocks<Element, 64> : QuantizeBlocks<Element, 128>;
    quantize<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchPrepareValues(const PrepareValuesArgs& args, cudaStream_t stream) {
  return args.type == ElementType::kFloat16 ? Launch<__half>(args, stream)
                                            : Launch<__nv_bfloat16>(args, stream);
}

}  // namespace sage::cuda
