// A tensor or mask that stays at the server, for as long as this object lives.
//
//   auto k = client->Put(sage::TensorRole::kK, problem, k_data);
//   request.resident.k = &*k;      // in place of request.k, as often as you like
#ifndef SAGE_CLIENT_REMOTE_TENSOR_H_
#define SAGE_CLIENT_REMOTE_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "kernels/attention.h"

namespace sage {
namespace v1 {
class TensorHandle;
}
namespace internal {
class TensorHome;
struct TensorState;
}  // namespace internal

enum class TensorRole : std::uint8_t { kQ, kK, kV };

struct PutOptions {
  // How long the server keeps the tensor if this process is gone; zero: the server's default. While
  // it is there the lease is renewed in time.
  absl::Duration lease = absl::ZeroDuration();
  // Tensors of one group, up to 64 bytes, are on one device, as those of a request must be.
  std::string placement_group;
  absl::Duration timeout = absl::InfiniteDuration();  // of the put itself
};

// Owns the tensor at the server: destruction releases it there, once no running request uses it.
// Renews its lease on a thread of the client. Where the server no longer has the tensor, as after
// a restart, it is put again from the caller's memory on that thread, when its lease is to be
// renewed or a request that uses it finds out. May outlive its client. Move-only; thread-safe but
// for moves.
class RemoteTensor {
 public:
  RemoteTensor(RemoteTensor&&) noexcept = default;
  RemoteTensor& operator=(RemoteTensor&& other) noexcept;
  ~RemoteTensor();

  // Bytes of the elements; of a mask, its packed bits.
  std::size_t bytes() const;

  // Copies bytes() bytes back from the server. NOT_FOUND where it no longer has them: what requests
  // have written is lost then. RESOURCE_EXHAUSTED while a request writes.
  absl::Status Get(void* data, absl::Duration timeout = absl::InfiniteDuration()) const;

  // Puts it again if the server no longer has it; an output begins anew as zeros. A put that is
  // under way at the end of the timeout goes on.
  absl::Status Restore(absl::Duration timeout = absl::InfiniteDuration()) const;

  // What stands for it at the server now.
  v1::TensorHandle handle() const;

 private:
  friend class Client;
  RemoteTensor(std::shared_ptr<internal::TensorHome> home,
               std::shared_ptr<internal::TensorState> state);

  std::shared_ptr<internal::TensorHome> home_;
  std::shared_ptr<internal::TensorState> state_;
};

}  // namespace sage

#endif  // SAGE_CLIENT_REMOTE_TENSOR_H_
