// Preparation of K and V in three steps, each independent over its blocks or heads:
//
//   GatherBlockStatistics   (head, block)   channel sums and ranges, left in the block's own memory
//   ReduceHead              (head)          smoothing vector c; mean and scale of V
//   PackBlock               (head, block)   `sage1` int8 keys and e4m3 values, packed
//
// The first two are for the INT8 precisions only, and the first has nothing to gather from keys
// that are int8 already. Same bits as kernels/quantize.h.
#ifndef SAGE_KERNELS_CPU_PREPARE_KV_H_
#define SAGE_KERNELS_CPU_PREPARE_KV_H_

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"
#include "kernels/cpu/prepared_kv.h"

namespace sage {

using MutablePreparedHead = PreparedHead<std::byte>;

void GatherBlockStatistics(const KvTask& task, std::int64_t head, std::int64_t block,
                           const MutablePreparedHead& out);
void ReduceHead(const KvTask& task, std::int64_t head, const MutablePreparedHead& out);
void PackBlock(const KvTask& task, std::int64_t head, std::int64_t block,
               const MutablePreparedHead& out);

}  // namespace sage

#endif  // SAGE_KERNELS_CPU_PREPARE_KV_H_
