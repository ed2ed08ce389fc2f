// One admitted attention request: its plan, its memory, and which payload has arrived.
//
//   JobSpec --Create--> AttendJob --chunks--> UnitWork --engine--> UnitResult --output sent-->
//   (memory back)
//
// Free of gRPC. Externally synchronised: one thread at a time.
#ifndef SAGE_SERVER_ATTEND_JOB_H_
#define SAGE_SERVER_ATTEND_JOB_H_

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/tensor_piece.h"
#include "kernels/used_blocks.h"
#include "server/admission.h"
#include "server/device.h"
#include "server/engine.h"
#include "server/ingest.h"
#include "server/quantized_scales.h"
#include "server/resident_tensor.h"
#include "server/unit_plan.h"

namespace sage::server {

// A checked request: what the codec makes of a header.
struct JobSpec {
  AttentionProblem problem;
  ResidentOperands resident;  // of the problem's shapes, types and layout
  QuantizedScales quantized;  // of what travels as int8
  // Bytes of the packed mask, 0 for none, and what builds it: called once these bytes are reserved.
  std::uint64_t mask_bytes = 0;
  std::function<absl::StatusOr<BlockMask>()> make_mask;
  std::string request_id;
  std::string tenant;
  int priority = 0;  // larger first between requests of one tenant
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  // Units are whole batch entries, whose pieces lie in one stretch in the whole tensors, unless k
  // and v are both resident.
  bool whole_entries = false;
  // Blocks of k and v that no query reads do not travel, see AttendHeader. Not with whole_entries.
  bool omit_unused_kv = false;
  Ingest::LineId line;  // that its payload comes in by; none where all of it is here
};

// Tensors that travel.
enum class Piece { kQ, kK, kV, kOut, kLse };
const char* Name(Piece piece);

// What jobs of a server share. Outlive every job.
struct JobResources {
  Admission& admission;
  SlabPool& host_pool;
  Ingest& ingest;
  PlanLimits plan_limits;
  // A request that would have to wait longer than this for the device is refused.
  std::chrono::milliseconds max_queue = std::chrono::milliseconds::max();
};

class AttendJob {
 public:
  // Plans and reserves, for a run on `device`, which outlives the job and holds its resident
  // operands. `window_bytes` is what a client may be ahead of its answers; the job's own window is
  // never smaller than its largest unit. Errors: INVALID_ARGUMENT, UNIMPLEMENTED (no kernel),
  // FAILED_PRECONDITION (can never fit), RESOURCE_EXHAUSTED (does not fit now, its resident output
  // is in use, or too much is queued before it), DEADLINE_EXCEEDED (by estimate it cannot be met,
  // by the device or by what brings payload in).
  static absl::StatusOr<std::unique_ptr<AttendJob>> Create(JobSpec spec,
                                                           const JobResources& resources,
                                                           Device& device,
                                                           std::uint64_t window_bytes);

  const AttentionProblem& problem() const { return problem_; }
  const ResidentOperands& resident() const { return resident_; }
  Quantized quantized() const { return quantized_.operands(); }
  std::int64_t ElementBytes(Piece piece) const;  // as it travels
  const std::string& request_id() const { return request_id_; }
  bool omits_unused_kv() const { return omits_unused_kv_; }
  Engine& engine() const { return device_.engine(); }  // takes the job's units
  const std::vector<Unit>& units() const { return units_; }
  // Of payload, what is left out of it included; 0 where there is none.
  std::uint64_t window_bytes() const { return has_payload_ ? window_bytes_ : 0; }
  double block_density() const { return block_density_; }
  const std::shared_ptr<RequestContext>& context() const { return context_; }
  // The host memory that the job reserved; to be held as long as any of its slabs.
  std::shared_ptr<const Account::Reservation> host_reservation() const { return ticket_.host; }

  // When the client may be told to send.
  Ingest::Turn& turn() { return turn_; }
  // Whether all payload can be here in time, now that the turn has come; DEADLINE_EXCEEDED if not.
  absl::Status CheckTurn() const { return CheckArrival(0, ArrivalSeconds().own); }

  // Payload received so far and in all.
  std::uint64_t received_bytes() const { return received_bytes_; }
  std::uint64_t payload_bytes() const { return payload_bytes_; }
  bool payload_complete() const { return received_bytes_ == payload_bytes_; }
  bool done() const { return units_sent_ == units_.size(); }
  std::uint64_t output_bytes() const { return output_bytes_; }

  // Whether memory for the next payload byte can be had within the job's reservation, units that
  // are ready having been taken. A client that keeps to its window never sees this false.
  bool CanReceive() const;

  // Where the next chunk goes: `size` bytes, in one place unless rows are left out.
  // INVALID_ARGUMENT where it is not exactly what comes next: q, k and v of each unit in order,
  // without gap, overlap or repetition. The bytes count as received at once; on a failure to fill
  // them the job is to be dropped. Requires CanReceive() and size > 0.
  using Places = std::vector<std::span<std::byte>>;
  absl::StatusOr<Places> Receive(Piece piece, std::uint32_t unit, std::uint64_t offset,
                                 std::uint64_t size);

  // The next unit, if all its payload has come and memory for it can be had; the caller sets `done`
  // and submits it. To be called until there is none, at the start, after Receive() and after
  // OutputSent(). Fails as Receive() does.
  absl::StatusOr<std::optional<UnitWork>> TakeReadyUnit();

  // The unit's output has left, and its slab is back in the pool. Units without output, too.
  void OutputSent(std::uint32_t unit);

  // All units are computed: from now on only their outputs are reserved.
  void ReleaseInputs();

 private:
  // What a unit holds of the reservation: its own slabs, and those of a KV group that it carries.
  struct Cost {
    std::uint64_t own = 0;
    std::uint64_t kv = 0;
  };

  AttendJob(const JobSpec& spec, QuantizedScales quantized, const JobResources& resources,
            Device& device, std::vector<Unit> units, std::uint64_t window_bytes);

  // A unit's q, and the k that it carries, each with its scales.
  std::uint64_t QueryBytes(const Unit& unit) const;
  std::uint64_t KeyBytes(const Unit& unit) const;
  // Of the list of used blocks that goes with what a unit carries of k and v; 0 for none.
  std::uint64_t UsedBytes(const Unit& unit) const;
  // The part of a unit's piece that travels.
  std::uint64_t PayloadBytes(std::uint32_t unit, Piece piece) const;
  // Finds out which blocks no query reads, once the mask is there.
  void LeaveOutUnused();
  // The unit's piece of k or v as rows of its slab, those that travel.
  TensorPiece UsedRows(const Unit& unit, Piece piece) const;
  Cost HostCost(const Unit& unit) const;
  Cost DeviceCost(const Unit& unit) const;
  // What counts against the window: payload, or where none travels, the size of the queries.
  std::uint64_t FlowBytes(const Unit& unit) const;
  // Tasks point to what is resident; pointers to what travels are still null.
  KvTask MakeKvTask(const Unit& unit) const;
  AttendTask MakeTask(const Unit& unit) const;
  MaskBegin mask_begin() const;  // of the request in its mask
  // The group that resident k and v keep prepared for the unit, if they do.
  std::shared_ptr<KvGroup> KeptKv(const Unit& unit) const;
  // What a unit asks of the device, and how long all of them take, by estimate.
  DeviceWork WorkOf(const Unit& unit) const;
  double EstimatedSeconds() const;
  double SecondsLeft() const;  // to the deadline
  // Whether the device can be done with the request in time; the reason where not.
  absl::Status CheckTime() const;
  // How long payload takes to come in and the answer to leave, and what travels before.
  Ingest::Arrival ArrivalSeconds() const;
  // Whether that can be done in time; the reason where not.
  absl::Status CheckArrival(double before, double own) const;
  // Whether the client is free to send on, whatever its answers do.
  bool WindowOpen() const;
  // Largest memory that units whose payload fits the window can hold at once.
  std::uint64_t PeakCost(Cost (AttendJob::*cost)(const Unit&) const) const;
  bool LastOfGroup(std::uint32_t unit) const;
  bool HasRoom() const;  // for the next unit
  absl::Status AcquireSlabs();
  // Moves next_piece_ on to the first piece, from here on, that travels with the next unit.
  void SkipResident();

  const JobResources& resources_;
  Device& device_;
  const AttentionProblem problem_;
  const ResidentOperands resident_;
  const QuantizedScales quantized_;
  const bool omits_unused_kv_;
  const std::uint64_t
      header_bytes_;  // of the mask, its used blocks and the scales, held to the end
  const std::string request_id_;
  const std::vector<Unit> units_;
  const std::shared_ptr<RequestContext> context_;
  double block_density_ = 1;
  std::uint64_t window_bytes_ = 0;
  bool has_payload_ = false;  // before anything is left out
  std::uint64_t payload_bytes_ = 0;
  std::optional<UsedBlocks> used_;         // where blocks are left out
  std::vector<std::int64_t> rows_unused_;  // then, by carrier: rows that do not travel
  std::uint64_t output_bytes_ = 0;         // lse included
  Admission::Ticket ticket_;
  const Ingest::LineId line_;
  Ingest::Turn turn_;

  // Receiving: the unit and piece that come next, and the slabs they go into.
  std::uint32_t next_unit_ = 0;
  std::optional<Piece> next_piece_ = Piece::kQ;  // nothing: all of the unit is here
  std::uint64_t next_offset_ = 0;
  Slab q_;
  Slab out_;
  std::shared_ptr<KvGroup> kv_;
  TensorPiece k_rows_, v_rows_;  // of its slab, where blocks are left out
  bool slabs_acquired_ = false;

  std::uint64_t received_bytes_ = 0;
  std::uint64_t host_bytes_held_ = 0;        // of units acquired and not yet sent
  std::uint64_t flow_bytes_held_ = 0;        // likewise
  std::vector<std::uint32_t> group_unsent_;  // by carrier: units whose output has not left
  std::size_t units_sent_ = 0;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_ATTEND_JOB_H_
