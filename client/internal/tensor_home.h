// The tensors that one client keeps at its server.
#ifndef SAGE_CLIENT_INTERNAL_TENSOR_HOME_H_
#define SAGE_CLIENT_INTERNAL_TENSOR_HOME_H_

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/internal/restore_wait.h"
#include "grpcpp/client_context.h"
#include "sage/v1/tensors.grpc.pb.h"

namespace sage::internal {

// One tensor: what it was made from, and what stands for it now.
struct TensorState {
  // Constant. `data` is the caller's, null where there is no payload.
  v1::TensorSpec spec;
  std::string idempotency_key;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;  // of elements, or of a mask's bits

  std::mutex put_mutex;  // held while it is being put, so that it is put once

  std::mutex mutex;
  // Guarded by mutex.
  bool released = false;                    // `data` may be gone
  grpc::ClientContext* put_call = nullptr;  // that runs
  v1::TensorHandle handle;
  absl::Time renew_at = absl::InfiniteFuture();
};

// Puts, gets and releases; a thread of its own renews leases and puts again what the server has
// lost. Thread-safe. Destruction sends the releases that are left.
class TensorHome {
 public:
  TensorHome(std::shared_ptr<grpc::Channel> channel, std::string target);
  ~TensorHome();

  // Puts it, and renews its lease from now on.
  absl::Status Put(const std::shared_ptr<TensorState>& state, absl::Time deadline);
  // Has it put again where the server no longer has it, and `wait` told.
  void Restore(std::shared_ptr<TensorState> state, std::shared_ptr<RestoreWait> wait);
  absl::Status Get(TensorState& state, std::byte* data, absl::Time deadline);
  // Ends a put in progress, and reads the caller's memory no more; the thread tells the server.
  void Release(std::shared_ptr<TensorState> state);

 private:
  struct Wanted {
    std::shared_ptr<TensorState> state;
    std::shared_ptr<RestoreWait> wait;
  };

  absl::Status Send(TensorState& state, absl::Time deadline);  // with put_mutex held

  // On the thread.
  void Run();
  void Renew(TensorState& state);
  absl::Status RestoreNow(TensorState& state);
  void RestoreAll(const std::vector<Wanted>& wanted);
  bool HasMoreUrgent();
  void SendReleases(const std::vector<std::shared_ptr<TensorState>>& states);

  const std::string target_;
  const std::unique_ptr<v1::Tensors::Stub> stub_;

  std::mutex mutex_;
  std::condition_variable wake_;
  // Guarded by mutex_.
  std::set<std::shared_ptr<TensorState>> kept_;
  std::vector<std::shared_ptr<TensorState>> released_;
  std::vector<Wanted> wanted_;
  bool changed_ = false;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace sage::internal

#endif  // SAGE_CLIENT_INTERNAL_TENSOR_HOME_H_
