// Quantisation of K by spec `sage1`: three passes, each bound by memory.
//
//   1. sums of 64-token blocks, tokens in order: a thread adds eight channels of one block
//   2. the sum of block sums, blocks in order, and c: a thread a channel
//   3. centre, find the block's largest magnitude, round: a thread block a block of K, which it
//      reads once and keeps in registers
//
// Keys that come quantised are copied, a thread block a block, into the same places.
//
// Block sums wait in the room of the block's own bytes, which pass 3 overwrites.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/prepare_kv.h"
#include "kernels/cuda/sage1.cuh"
#include "kernels/cuda/swizzled_tile.cuh"

namespace sage::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kVector = 8;  // channels of a 16-byte load
constexpr int kRowsInFlight = 16;
constexpr int kSumsInFlight = 32;
static_assert(sizeof(float) <= kBlockKeys, "block sums fit where their bytes will lie");

__device__ __forceinline__ int Blocks(const PrepareKeysArgs& args) {
  return (args.length_k + kBlockKeys - 1) / kBlockKeys;
}

// Where block `block` of head `head` lies in k8, and its sums before that.
__device__ __forceinline__ std::uint8_t* BlockBytes(const PrepareKeysArgs& args, std::int64_t head,
                                                    std::int64_t block) {
  return args.k8 + (head * Blocks(args) + block) * kBlockKeys * args.padded_dim;
}

// Offset of eight channels of a row of a block.
template <int kPaddedDim>
__device__ __forceinline__ std::uint32_t SwizzledOffset(std::uint32_t row, std::uint32_t vector) {
  return SwizzledTile<kPaddedDim>::Offset(row, vector / 2) + vector % 2 * kVector;
}

__device__ __forceinline__ float FiniteOrZero(float x) { return IsFinite(x) ? x : 0.0F; }

template <typename Element>
__global__ void __launch_bounds__(kThreads) SumBlocks(const PrepareKeysArgs args) {
  const int vectors = args.head_dim / kVector;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t block_index = index / vectors;
  const int vector = static_cast<int>(index % vectors);
  const std::int64_t head = block_index / Blocks(args);
  const std::int64_t block = block_index % Blocks(args);
  if (head >= args.num_heads) return;
  const int rows = static_cast<int>(
      min(args.length_k - block * kBlockKeys, static_cast<std::int64_t>(kBlockKeys)));
  const std::uint8_t* source = args.k.data + head * args.k.head_stride_bytes +
                               block * kBlockKeys * args.k.row_stride_bytes + vector * 16;
  float sums[kVector] = {};
  for (int first = 0; first < rows; first += kRowsInFlight) {
    uint4 words[kRowsInFlight];
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      if (first + i < rows) {
        words[i] =
            __ldg(reinterpret_cast<const uint4*>(source + (first + i) * args.k.row_stride_bytes));
      }
    }
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      if (first + i >= rows) break;
      const std::uint32_t pairs[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const float2 pair = Widen<Element>(pairs[p]);
        sums[2 * p] = __fadd_rn(sums[2 * p], FiniteOrZero(pair.x));
        sums[2 * p + 1] = __fadd_rn(sums[2 * p + 1], FiniteOrZero(pair.y));
      }
    }
  }
  float4* const target = reinterpret_cast<float4*>(BlockBytes(args, head, block)) + vector * 2;
  target[0] = make_float4(sums[0], sums[1], sums[2], sums[3]);
  target[1] = make_float4(sums[4], sums[5], sums[6], sums[7]);
}

// One thread block a head, one thread a channel.
__global__ void ComputeSmoothing(const PrepareKeysArgs args) {
  const std::int64_t head = blockIdx.x;
  const int channel = threadIdx.x;
  float sum = 0.0F;
  if (channel < args.head_dim && args.length_k > 0) {
    const int blocks = Blocks(args);
    const std::uint8_t* source =
        BlockBytes(args, head, 0) + channel * static_cast<int>(sizeof(float));
    const std::int64_t stride = kBlockKeys * args.padded_dim;
    for (int first = 0; first < blocks; first += kSumsInFlight) {
      float sums[kSumsInFlight];
#pragma unroll
      for (int i = 0; i < kSumsInFlight; ++i) {
        sums[i] = first + i < blocks
                      ? *reinterpret_cast<const float*>(source + (first + i) * stride)
                      : 0.0F;
      }
      // Adding +0 past the end changes nothing: a sum that started at +0 is never -0.
#pragma unroll
      for (int i = 0; i < kSumsInFlight; ++i) sum = __fadd_rn(sum, sums[i]);
    }
    sum = __fmul_rn(sum, __fdiv_rn(1.0F, static_cast<float>(args.length_k)));
  }
  args.smoothing[head * args.padded_dim + channel] = sum;
}

template <typename Element, int kPaddedDim>
__global__ void __launch_bounds__(kThreads) QuantizeBlocks(const PrepareKeysArgs args) {
  constexpr int kVectorsPerRow = kPaddedDim / kVector;
  constexpr int kRowStep = kThreads / kVectorsPerRow;
  constexpr int kRowsPerThread = kBlockKeys / kRowStep;
  // The last come first: L2 still has them from the first pass.
  const std::int64_t block_index = gridDim.x - 1 - blockIdx.x;
  const std::int64_t head = block_index / Blocks(args);
  const std::int64_t block = block_index % Blocks(args);
  const int vector = threadIdx.x % kVectorsPerRow;
  const int first_row = threadIdx.x / kVectorsPerRow;
  const bool in_head = vector * kVector < args.head_dim;

  uint4 words[kRowsPerThread];
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    const std::int64_t row = block * kBlockKeys + first_row + i * kRowStep;
    if (in_head && row < args.length_k) {
      words[i] =
          __ldg(reinterpret_cast<const uint4*>(args.k.data + head * args.k.head_stride_bytes +
                                               row * args.k.row_stride_bytes + vector * 16));
    }
  }
  float c[kVector];
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    c[j] = __ldg(args.smoothing + head * kPaddedDim + vector * kVector + j);
  }
  // The centred element j of row i; 0 where there is none.
  const auto centred = [&](int i, float2(&pairs)[4]) {
    const bool exists = in_head && block * kBlockKeys + first_row + i * kRowStep < args.length_k;
    const std::uint32_t bits[4] = {words[i].x, words[i].y, words[i].z, words[i].w};
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const float2 pair = Widen<Element>(bits[p]);
      pairs[p].x = exists ? __fsub_rn(pair.x, c[2 * p]) : 0.0F;
      pairs[p].y = exists ? __fsub_rn(pair.y, c[2 * p + 1]) : 0.0F;
    }
  };

  std::uint32_t max_bits = 0;
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    float2 pairs[4];
    centred(i, pairs);
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      max_bits = max(max_bits, max(MagnitudeBits(pairs[p].x), MagnitudeBits(pairs[p].y)));
    }
  }
  __shared__ std::uint32_t warp_max[kWarps];
  max_bits = __reduce_max_sync(0xffffffffU, max_bits);
  if (threadIdx.x % 32 == 0) warp_max[threadIdx.x / 32] = max_bits;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarps; ++w) max_bits = max(max_bits, warp_max[w]);

  const GroupScale group = MakeGroupScale(max_bits);
  std::uint8_t* const target = BlockBytes(args, head, block);
#pragma unroll
  for (int i = 0; i < kRowsPerThread; ++i) {
    float2 pairs[4];
    centred(i, pairs);
    *reinterpret_cast<uint2*>(target +
                              SwizzledOffset<kPaddedDim>(first_row + i * kRowStep, vector)) =
        make_uint2(QuantizeWord(pairs[0].x, pairs[0].y, pairs[1].x, pairs[1].y, group.factor),
                   QuantizeWord(pairs[2].x, pairs[2].y, pairs[3].x, pairs[3].y, group.factor));
  }
  if (threadIdx.x == 0) args.scales[block_index] = group.scale;
}

// One thread block a block of K; heads without keys have one as well, for their smoothing vector.
__global__ void __launch_bounds__(kThreads) CopyGivenKeys(const PrepareKeysArgs args) {
  const int blocks = Blocks(args);
  const std::int64_t head = blockIdx.x / max(blocks, 1);
  const int block = static_cast<int>(blockIdx.x % max(blocks, 1));
  if (block == 0 && threadIdx.x < args.padded_dim) {
    const int channel = static_cast<int>(threadIdx.x);
    args.smoothing[head * args.padded_dim + channel] =
        channel < args.head_dim ? args.given_smoothing[head * args.head_dim + channel] : 0.0F;
  }
  if (blocks == 0) return;
  if (args.used_blocks != nullptr && (args.used_blocks[block / 8] >> (block % 8) & 1) == 0) return;
  if (threadIdx.x == 0) {
    args.scales[blockIdx.x] = args.given_scales[head * args.given_scales_head_stride + block];
  }
  const int vectors_per_row = args.padded_dim / kVector;
  std::uint8_t* const target = BlockBytes(args, head, block);
  for (int i = static_cast<int>(threadIdx.x); i < kBlockKeys * vectors_per_row; i += kThreads) {
    const std::int64_t row = static_cast<std::int64_t>(block) * kBlockKeys + i / vectors_per_row;
    const int channel = i % vectors_per_row * kVector;
    uint2 bytes = make_uint2(0, 0);
    if (row < args.length_k && channel < args.head_dim) {
      bytes = __ldg(reinterpret_cast<const uint2*>(args.k.data + head * args.k.head_stride_bytes +
                                                   row * args.k.row_stride_bytes + channel));
    }
    const int in_block = i / vectors_per_row;
    *reinterpret_cast<uint2*>(target + (args.padded_dim == 64
                                            ? SwizzledOffset<64>(in_block, i % vectors_per_row)
                                            : SwizzledOffset<128>(in_block, i % vectors_per_row))) =
        bytes;
  }
}

cudaError_t LaunchCopyGivenKeys(const PrepareKeysArgs& args, cudaStream_t stream) {
  const std::int64_t blocks = (args.length_k + kBlockKeys - 1) / kBlockKeys;
  const std::int64_t grid = args.num_heads * std::max<std::int64_t>(blocks, 1);
  CopyGivenKeys<<<static_cast<unsigned>(grid), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

template <typename Element>
cudaError_t Launch(const PrepareKeysArgs& args, cudaStream_t stream) {
  const std::int64_t blocks = (args.length_k + kBlockKeys - 1) / kBlockKeys * args.num_heads;
  const std::int64_t sum_threads = blocks * (args.head_dim / kVector);
  if (blocks > 0) {
    SumBlocks<Element>
        <<<static_cast<unsigned>((sum_threads + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
            args);
  }
  ComputeSmoothing<<<static_cast<unsigned>(args.num_heads), args.padded_dim, 0, stream>>>(args);
  if (blocks > 0) {
    const auto quantize =
        args.padded_dim == 64 ? QuantizeBlocks<Element, 64> : QuantizeBlocks<Element, 128>;
    quantize<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchPrepareKeys(const PrepareKeysArgs& args, cudaStream_t stream) {
  if (args.given_scales != nullptr) return LaunchCopyGivenKeys(args, stream);
  return args.type == ElementType::kFloat16 ? Launch<__half>(args, stream)
                                            : Launch<__nv_bfloat16>(args, stream);
}

}  // namespace sage::cuda
