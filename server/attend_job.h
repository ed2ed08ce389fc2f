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
#include "server/admission.h"
#include "server/device.h"
#include "server/engine.h"
#include "server/ingest.h"
#include "server/piece.h"
#include "server/quantized_scales.h"
#include "server/resident_tensor.h"
#include "server/unit_costs.h"
#include "server/unit_payload.h"
#include "server/unit_plan.h"
#include "server/unit_tasks.h"

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

  AttendJob(const AttendJob&) = delete;
  AttendJob& operator=(const AttendJob&) = delete;

  const AttentionProblem& problem() const { return problem_; }
  const ResidentOperands& resident() const { return tasks_.resident(); }
  Quantized quantized() const { return payload_.quantized(); }
  // Of a piece as it travels.
  std::int64_t ElementBytes(Piece piece) const { return payload_.ElementBytes(piece); }
  const std::string& request_id() const { return request_id_; }
  bool omits_unused_kv() const { return payload_.omits_unused_kv(); }
  Engine& engine() const { return device_.engine(); }  // takes the job's units
  const std::vector<Unit>& units() const { return payload_.units(); }
  // Of payload, what is left out of it included; 0 where there is none.
  std::uint64_t window_bytes() const { return payload_.any() ? window_bytes_ : 0; }
  double block_density() const { return block_density_; }
  const std::shared_ptr<RequestContext>& context() const { return tasks_.context(); }
  // The host memory that the job reserved; to be held as long as any of its slabs.
  std::shared_ptr<const Account::Reservation> host_reservation() const { return ticket_.host; }

  // When the client may be told to send.
  Ingest::Turn& turn() { return turn_; }
  // Whether all payload can be here in time, now that the turn has come; DEADLINE_EXCEEDED if not.
  absl::Status CheckTurn() const;

  // Payload received so far and in all.
  std::uint64_t received_bytes() const { return received_bytes_; }
  std::uint64_t payload_bytes() const { return payload_.bytes(); }
  bool payload_complete() const { return received_bytes_ == payload_.bytes(); }
  bool done() const { return units_sent_ == units().size(); }
  std::uint64_t output_bytes() const { return payload_.output_bytes(); }

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
  AttendJob(const JobSpec& spec, QuantizedScales quantized, const JobResources& resources,
            Device& device, std::vector<Unit> units, std::uint64_t window_bytes);

  double SecondsLeft() const;  // to the deadline
  // Whether the device can be done with the request in time; the reason where not.
  absl::Status CheckDevice() const;
  // How long payload takes to come in and the answer to leave, and what travels before.
  Ingest::Arrival EstimatedArrival() const;
  // Whether the client is free to send on, whatever its answers do.
  bool WindowOpen() const;
  bool HasRoom() const;  // for the next unit
  absl::Status AcquireSlabs();
  // Moves next_piece_ on to the first piece, from here on, that travels with the next unit.
  void SkipResident();

  const JobResources& resources_;
  Device& device_;
  const AttentionProblem problem_;
  UnitPayload payload_;
  const UnitTasks tasks_;
  const UnitCosts costs_;
  const std::uint64_t header_bytes_;  // held to the end: the mask, its used blocks and the scales
  const std::string request_id_;
  double block_density_ = 1;
  std::uint64_t window_bytes_ = 0;
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
