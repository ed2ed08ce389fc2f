// Tiles of bytes, as ldmatrix and wgmma read them from shared memory without bank conflicts.
// Prepared keys and values lie so in device memory already.
#ifndef SAGE_KERNELS_CUDA_SWIZZLED_TILE_CUH_
#define SAGE_KERNELS_CUDA_SWIZZLED_TILE_CUH_

#include <cstdint>

namespace sage::cuda {

// Tile of bytes, rows of 64, 128 or 256 bytes, in chunks of 16 that are swizzled so that the eight
// rows of an 8x8 matrix lie in different banks. Rows of 64 and 128 bytes have the tensor cores' own
// 64-byte and 128-byte swizzle.
template <int kRowBytes>
struct SwizzledTile {
  static_assert(kRowBytes == 64 || kRowBytes == 128 || kRowBytes == 256);
  static constexpr int kChunks = kRowBytes / 16;

  // What the chunk index of a row is combined with, by exclusive or.
  static __device__ __forceinline__ std::uint32_t Twist(std::uint32_t row) {
    return kRowBytes == 64 ? (row >> 1) & 3 : row & 7;
  }
  static __device__ __forceinline__ std::uint32_t Offset(std::uint32_t row, std::uint32_t chunk) {
    return row * kRowBytes + ((chunk ^ Twist(row)) << 4);
  }
  // The address 2 * step chunks after one of chunk 0 or 1, in a tile aligned to 128 bytes.
  static __device__ __forceinline__ std::uint32_t Step(std::uint32_t address, int step) {
    return (address ^ (step % 4 << 5)) + step / 4 * 128;
  }
};

}  // namespace sage::cuda

#endif  // SAGE_KERNELS_CUDA_SWIZZLED_TILE_CUH_
