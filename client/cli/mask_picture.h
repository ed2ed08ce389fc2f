// Pictures of block masks. A block, 128 queries by 64 keys, is drawn twice as high as wide, so that
// a map of as many queries as keys comes out square.
#ifndef SAGE_CLIENT_CLI_MASK_PICTURE_H_
#define SAGE_CLIENT_CLI_MASK_PICTURE_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"

namespace sage::cli {

// One map [tiles_q, blocks_k], one byte a block. Does not own.
struct MaskMap {
  std::int64_t tiles_q = 0;
  std::int64_t blocks_k = 0;
  std::span<const std::uint8_t> blocks;

  bool at(std::int64_t tile, std::int64_t block) const {
    return blocks[tile * blocks_k + block] != 0;
  }
  // Share of listed blocks among those of [tile_begin, tile_end) x [block_begin, block_end).
  double Density(std::int64_t tile_begin, std::int64_t tile_end, std::int64_t block_begin,
                 std::int64_t block_end) const;
  double Density() const { return Density(0, tiles_q, 0, blocks_k); }
};

// Lines of text at most `columns` wide and framed; maps that are too large are scaled down, cells
// shaded by density. Characters outside of ASCII only where `unicode` is set.
std::string TextPicture(const MaskMap& map, int columns, bool unicode);

// INVALID_ARGUMENT or RESOURCE_EXHAUSTED, beginning with the file's name.
absl::Status WritePng(const MaskMap& map, const std::string& path);
absl::Status WriteSvg(const MaskMap& map, const std::string& title, const std::string& path);

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_MASK_PICTURE_H_
