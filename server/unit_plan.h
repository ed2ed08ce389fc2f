// How a request is cut into units, the pieces that travel, run and are answered as one.
#ifndef SAGE_SERVER_UNIT_PLAN_H_
#define SAGE_SERVER_UNIT_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/attention.h"

namespace sage::server {

// Tensors of a request that stay at the server, so that they do not travel with it.
struct Resident {
  bool q = false;
  bool k = false;
  bool v = false;
  bool out = false;
};

// Operands whose elements travel as int8.
struct Quantized {
  bool q = false;
  bool k = false;
};

// Some KV heads of one batch entry and a range of the queries that read them. Units that share KV
// heads follow one another; the first of them carries what travels of k and v.
struct Unit {
  std::int64_t batch = 0;
  std::int64_t kv_head_begin = 0;
  std::int64_t kv_head_count = 0;
  std::int64_t q_begin = 0;  // a multiple of kBlockM
  std::int64_t q_count = 0;
  std::uint32_t kv_unit = 0;  // index of the unit that carries k and v

  // Bytes that travel for the unit, unused keys and values included where those are left out. k and
  // v are 0 where another unit carries them.
  std::uint64_t q_bytes = 0;
  std::uint64_t k_bytes = 0;
  std::uint64_t v_bytes = 0;
  std::uint64_t out_bytes = 0;
  std::uint64_t lse_bytes = 0;

  std::uint64_t payload_bytes() const { return q_bytes + k_bytes + v_bytes; }
};

struct PlanLimits {
  std::uint64_t unit_bytes = 2 << 20;  // payload that a unit aims at
  // Operations (4 rows keys head_dim) that a unit aims at, by up to twice or half the payload: long
  // sequences make small units, short ones large. 0: payload alone counts.
  double unit_operations = 0;
  std::uint64_t max_units = 1 << 16;
};

// Cuts a valid problem. A unit holds at least one KV head and 128 queries, however large they are;
// units are made larger than aimed at where there would be more than max_units. INVALID_ARGUMENT
// where the batch alone is larger than max_units. Where k and v are both resident, units hold
// KvHeadsPerUnit() heads whatever the queries are, so that prepared keys fit one request after
// another.
absl::StatusOr<std::vector<Unit>> PlanUnits(const AttentionProblem& problem,
                                            const PlanLimits& limits, Resident resident = {},
                                            Quantized quantized = {});

// KV heads of a unit whose k and v, `head_bytes` a head each, are resident: all, or a power of two,
// so that requests about some of the heads mostly keep to the cut.
std::int64_t KvHeadsPerUnit(std::int64_t num_heads_kv, std::uint64_t head_bytes,
                            std::uint64_t unit_bytes);

}  // namespace sage::server

#endif  // SAGE_SERVER_UNIT_PLAN_H_
