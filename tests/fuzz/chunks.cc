// Chunks in any order: a job accepts exactly what comes next, and gives all memory back.
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <optional>

#include "server/attend_job.h"
#include "tests/fuzz/byte_source.h"
#include "tests/fuzz/device.h"
#include "tests/fuzz/targets.h"

namespace sage::fuzz {
namespace {

constexpr server::Piece kPieces[] = {server::Piece::kQ, server::Piece::kK, server::Piece::kV};

// What comes next, by the plan alone.
struct Expected {
  std::uint32_t unit = 0;
  int piece = 0;
  std::uint64_t offset = 0;

  static std::uint64_t Bytes(const server::Unit& unit, int piece) {
    return piece == 0 ? unit.q_bytes : piece == 1 ? unit.k_bytes : unit.v_bytes;
  }

  // Goes on to a piece that has bytes left.
  void Settle(const std::vector<server::Unit>& units) {
    while (unit < units.size() && offset == Bytes(units[unit], piece)) {
      offset = 0;
      if (++piece == 3) {
        piece = 0;
        ++unit;
      }
    }
  }
};

}  // namespace

void Chunks(Input input) {
  static server::SlabPool pool(SharedDevice().backend(), MemoryKind::kHost, 64 << 20);
  static server::Ingest ingest;
  server::Admission admission(64 << 20, 4);
  {
    ByteSource source(input);
    server::JobSpec spec;
    AttentionProblem& problem = spec.problem;
    problem.batch = source.Range(1, 2);
    problem.num_heads_kv = source.Range(1, 3);
    problem.num_heads_q = problem.num_heads_kv * source.Range(1, 2);
    problem.seqlen_q = source.Range(1, 255);
    problem.seqlen_k = source.Range(1, 255);
    problem.head_dim = 8 * source.Range(1, 16);
    problem.return_lse = source.Byte() % 2 == 1;
    const server::JobResources resources{
        admission, pool, ingest, {.unit_bytes = std::uint64_t{1} << source.Range(10, 18)}};
    auto job = server::AttendJob::Create(std::move(spec), resources, SharedDevice(),
                                         std::uint64_t{1} << source.Range(10, 20));
    if (!job.ok()) return;
    const std::vector<server::Unit>& units = (*job)->units();
    std::deque<server::UnitWork> running;
    Expected next;
    std::uint32_t sent = 0;
    std::uint32_t taken = 0;
    while (!source.empty()) {
      const std::uint8_t step = source.Byte();
      next.Settle(units);
      if (step % 4 == 0 && !running.empty()) {
        running.pop_front();
        (*job)->OutputSent(sent++);
      } else if ((*job)->CanReceive()) {
        Expected got = next;
        std::uint64_t size = 1 + source.Word() % (1 << 18);
        if (step % 4 == 1) {
          got = {.unit = source.Byte(), .piece = source.Range(0, 2), .offset = source.Word()};
          if (source.Byte() == 255) got.offset = ~std::uint64_t{0} - got.offset;
          if (source.Byte() == 255) size = ~std::uint64_t{0} - size;
        } else if (next.unit < units.size()) {
          size = std::min(size, Expected::Bytes(units[next.unit], next.piece) - next.offset);
        }
        const bool fits = next.unit < units.size() && got.unit == next.unit &&
                          got.piece == next.piece && got.offset == next.offset &&
                          size <= Expected::Bytes(units[next.unit], next.piece) - next.offset;
        const auto places = (*job)->Receive(kPieces[got.piece], got.unit, got.offset, size);
        Promise(places.ok() == fits, "what comes next is accepted, and nothing else");
        if (!fits) return;  // as the service does: the request has failed
        std::uint64_t placed = 0;
        for (const std::span<std::byte> place : *places) {
          std::memset(place.data(), step, place.size());
          placed += place.size();
        }
        Promise(placed == size, "places hold the chunk");
        next.offset += size;
      }
      while (true) {
        auto work = (*job)->TakeReadyUnit();
        if (!work.ok() || !work->has_value()) break;
        running.push_back(**std::move(work));
        ++taken;
      }
      next.Settle(units);
      Promise(taken <= next.unit, "a unit is ready once all of it has come");
    }
  }
  Promise(pool.in_use_bytes() == 0 && admission.host().reserved() == 0, "memory comes back");
}

}  // namespace sage::fuzz
