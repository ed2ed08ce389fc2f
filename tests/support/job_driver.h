// Drives an AttendJob as a client's chunks would, without any transport.
#ifndef SAGE_TESTS_SUPPORT_JOB_DRIVER_H_
#define SAGE_TESTS_SUPPORT_JOB_DRIVER_H_

#include <cstdint>
#include <cstring>
#include <optional>

#include "server/attend_job.h"

namespace sage::testing {

// Sends all payload of the next unit, zeros, in chunks of at most `chunk` bytes, and gives the unit
// that is then ready; nothing where the job refuses a chunk.
inline std::optional<server::UnitWork> SendUnit(server::AttendJob& job, std::uint32_t index,
                                                std::uint64_t chunk = 1 << 20) {
  const server::Unit& unit = job.units()[index];
  const std::pair<server::Piece, std::uint64_t> pieces[] = {{server::Piece::kQ, unit.q_bytes},
                                                            {server::Piece::kK, unit.k_bytes},
                                                            {server::Piece::kV, unit.v_bytes}};
  for (const auto& [piece, bytes] : pieces) {
    for (std::uint64_t offset = 0; offset < bytes;) {
      const std::uint64_t size = std::min(chunk, bytes - offset);
      auto places = job.Receive(piece, index, offset, size);
      if (!places.ok()) return std::nullopt;
      for (const std::span<std::byte> place : *places) std::memset(place.data(), 0, place.size());
      offset += size;
    }
  }
  auto work = job.TakeReadyUnit();
  return work.ok() ? *std::move(work) : std::nullopt;
}

}  // namespace sage::testing

#endif  // SAGE_TESTS_SUPPORT_JOB_DRIVER_H_
