#include "server/piece.h"

namespace sage::server {

const char* Name(Piece piece) {
  switch (piece) {
    case Piece::kQ:
      return "q";
    case Piece::kK:
      return "k";
    case Piece::kV:
      return "v";
    case Piece::kOut:
      return "output";
    case Piece::kLse:
      return "lse";
  }
  return "?";
}

std::optional<Piece> After(Piece piece) {
  switch (piece) {
    case Piece::kQ:
      return Piece::kK;
    case Piece::kK:
      return Piece::kV;
    default:
      return std::nullopt;
  }
}

std::uint64_t PlannedBytes(const Unit& unit, Piece piece) {
  switch (piece) {
    case Piece::kQ:
      return unit.q_bytes;
    case Piece::kK:
      return unit.k_bytes;
    case Piece::kV:
      return unit.v_bytes;
    case Piece::kOut:
      return unit.out_bytes;
    case Piece::kLse:
      return unit.lse_bytes;
  }
  return 0;
}

}  // namespace sage::server
