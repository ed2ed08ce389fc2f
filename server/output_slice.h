// Computed output on its way to the transport, from the slab that it was computed into.
#ifndef SAGE_SERVER_OUTPUT_SLICE_H_
#define SAGE_SERVER_OUTPUT_SLICE_H_

#include <cstdint>
#include <memory>

#include "grpcpp/support/slice.h"
#include "server/account.h"
#include "server/slab_pool.h"

namespace sage::server {

// A computed unit's output. Slices on their way to the transport share it; the slab, and the host
// memory that the request reserved, go back when the last one is gone.
struct Output {
  std::shared_ptr<const Account::Reservation> reservation;
  Slab slab;
};

// `size` bytes of an output from `offset` on, without a copy.
grpc::Slice SliceOf(const std::shared_ptr<Output>& output, std::uint64_t offset,
                    std::uint64_t size);

}  // namespace sage::server

#endif  // SAGE_SERVER_OUTPUT_SLICE_H_
