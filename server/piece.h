// The tensors of a request that travel.
#ifndef SAGE_SERVER_PIECE_H_
#define SAGE_SERVER_PIECE_H_

#include <cstdint>
#include <optional>

#include "server/unit_plan.h"

namespace sage::server {

enum class Piece { kQ, kK, kV, kOut, kLse };

const char* Name(Piece piece);

// The piece of a unit's payload that comes behind `piece`; nothing behind v.
std::optional<Piece> After(Piece piece);

// Of a unit as it was planned: what may be left out is counted.
std::uint64_t PlannedBytes(const Unit& unit, Piece piece);

}  // namespace sage::server

#endif  // SAGE_SERVER_PIECE_H_
