// Tiles of bytes in shared memory, as ldmatrix reads them without bank conflicts.
#ifndef SAGE_KERNELS_CUDA_SM80_SWIZZLED_TILE_CUH_
#define SAGE_KERNELS_CUDA_SM80_SWIZZLED_TILE_CUH_

#include <cstdint>

namespace sage::cuda::sm80 {

// Tile of bytes in shared memory, rows of 64, 128 or 256 bytes, in chunks of 16 that are swizzled
// so that the eight rows of an 8x8 matrix lie in different banks.
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

}  // namespace sage::cuda::sm80

#endif  // SAGE_KERNELS_CUDA_SM80_SWIZZLED_TILE_CUH_
